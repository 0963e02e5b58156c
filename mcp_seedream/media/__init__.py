"""Input and output pictures: reading, converting, downloading, saving and previewing them.

Entry points: `inputs.prepare_pictures` converts input pictures to a form that the upstream accepts; `outputs.deliver`
downloads, saves and previews results; `downloads.Downloads` downloads from public https addresses only.

Input pictures are untrusted: they must be decoded only in a subprocess with time and memory limits (`decoder`).
Pillow must not be imported before the first picture is processed.
"""
