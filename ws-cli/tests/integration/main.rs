//! The program as its users meet it: a real `ws` process, real sockets, real callbacks.

mod support;

mod echo;
