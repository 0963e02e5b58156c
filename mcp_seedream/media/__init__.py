"""Input and output pictures: reading, converting, downloading, saving and previewing them.

Entry points: `inputs.InputPictures` converts input pictures to a form that the upstream accepts; `outputs.Delivery`
downloads, saves and previews results; `downloads.Downloads` downloads from public https addresses only.

All pictures are untrusted: they must be decoded only in a subprocess with time and memory limits. `decoding.Decoders`
starts it, and `decoder` is its program, which refuses pictures by `structure` and `catalog.picture_kinds.Bounds`. The
server's process must not import Pillow.
"""
