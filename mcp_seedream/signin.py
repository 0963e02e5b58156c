"""The sandbox's side of the vendor's sign-in."""
