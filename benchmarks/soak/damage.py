def attempt(draw, ground, folder):
    raise NotImplementedError
