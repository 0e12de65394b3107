//! The routers. It translates and decides nothing.
