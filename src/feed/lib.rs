//! Posts, profile and group rooms, public timelines.
