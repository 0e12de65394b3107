//! Local people: users, devices, tokens, account data, profiles.
