"""Images at every resolution from 4 pixels on, for models that grow: prepared once, then read one size at a time.

`prepare` makes a folder of a data set; `load` opens it. A resolution has shards of its own, so training at 8 pixels
reads only 8 pixels:

    FOLDER/manifest.json                                  settings, source, splits, checksums, files that were skipped
    FOLDER/train_4-00000-of-00012.array_record            the first twelfth of the training images, 4 x 4 pixels
    FOLDER/train_8-00000-of-00012.array_record            the same images, 8 x 8
    FOLDER/validation_4-00000-of-00002.array_record

A record is the RGB pixels of an image, uint8 [S, S, 3], and its number in the data set, int32. Shards are ArrayRecord
files with one record per group, since a group is what a random read unpacks: a larger one would unpack images that
nobody asked for. Records are not compressed: of photographs of 128 pixels that would save a tenth of the disk and cost
almost half of the images read per second. A record has a checksum, which is compared whenever it is read.

settings:   which images, and how large; recipes of published data sets
origins:    the images of which a pyramid is made
stream:     records on the disk, and batches that are read while a model trains
reader:     a pyramid that is complete, and what is wrong with one
dataset:    a pyramid as the data set of an experiment
writer:     preparation, which goes on after any interruption
"""

from mvae_jax import _lazy

__getattr__, __dir__ = _lazy.modules(
    __name__,
    {
        **dict.fromkeys(("CROPS", "RECIPES", "Recipe", "Settings"), "settings"),
        **dict.fromkeys(("levels", "prepare"), "writer"),
        **dict.fromkeys(("MANIFEST", "Pyramid", "defects", "is_pyramid", "load"), "reader"),
        **dict.fromkeys(("Config", "PyramidData"), "dataset"),
    },
)
