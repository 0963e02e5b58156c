"""Sign-in: an OAuth 2.1 authorization server for clients that have no place for an API key.

Front door: `routes.open_sign_in` builds it from the settings; `provider` is the SDK's provider interface; `consent`
is the page on which a person pastes a key or signs in at the vendor.

It rests on `core` alone and is mounted by `hosting`. Tokens hold sealed data; what must be remembered (codes, used
refresh tokens) is in `store`: memory for one process, Redis for several.
"""
