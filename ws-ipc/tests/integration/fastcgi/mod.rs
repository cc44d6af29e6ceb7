//! FastCGI: the codec under any cut, the client against scripted peers and against php-fpm.

mod client;
mod codec;
mod peer;
mod php_fpm;
