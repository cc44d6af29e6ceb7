//! Behaviour of the crate as its users see it; numbers such as T21 are those of the threat table.

mod closing;
mod control;
mod deflate;
mod deflate_reference;
mod differential;
mod extension;
mod fragments;
mod frames;
mod handshake;
mod handshake_client;
mod head;
mod pair;
mod properties;
mod requirements;
mod sending;
mod support;
mod text;
mod timers;
mod witness;
