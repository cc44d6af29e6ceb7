def answer(env, body)
  "#{body}, said #{env['REMOTE_ADDR']}"
end
