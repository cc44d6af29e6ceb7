//! ws-session
