"""Sign-in: an OAuth 2.1 authorization server for clients that cannot send an API key.

Front door: `routes.open_sign_in` builds it from the settings; `provider` is the SDK's provider interface; `consent`
is the page on which a person pastes a key or signs in at the vendor. Clients register (`registrations`), or have a
metadata document at a URL (`client_documents`).

It depends on `core` alone and is mounted by `hosting`. Tokens contain encrypted data. State (codes, current refresh
tokens) is in `store`: in memory for one process, in Redis for several. A key is never stored unencrypted.
"""
