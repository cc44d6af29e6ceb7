module.exports = async (env, body) => `${body}, said ${env.REMOTE_ADDR}`;
