//! Events and their rules: canonical JSON, hashes, ids, room versions, signatures, auth rules, state resolution, digests. Pure.
