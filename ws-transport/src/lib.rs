//! ws-transport
