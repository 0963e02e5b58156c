"""Pictures in and out: local files, pixels, guarded downloads, inputs that fit the upstream, outputs that fit a chat.

Front door: `inputs.take_pictures` brings given pictures into the upstream's form; `outputs.deliver` fetches, saves
and previews results; `downloads.Downloads` fetches from public https addresses only.

A stranger's picture is decoded in a process of its own (`decoder`), with limits of time and memory. Pillow is
imported only when the first picture comes.
"""
