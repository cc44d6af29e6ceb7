def answer(env, body):
    return f"{body.decode()}, said {env['REMOTE_ADDR']}"
