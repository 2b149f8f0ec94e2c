"""Where the events of users are kept: an embedded store, and a shared one; `stores.open_store` opens either."""
