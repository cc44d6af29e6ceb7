//! ws-server
