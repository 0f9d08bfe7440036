"""The list of ImageNet-1K's classes."""

import hashlib

from passl_sot.data.imagenet import imagenet_classes

# By the lists of Caffe, PaddleClas and torchvision.
KNOWN = {
    0: ("n01440764", "tench, Tinca tinca"),
    1: ("n01443537", "goldfish, Carassius auratus"),
    65: ("n01751748", "sea snake"),
    134: ("n02012849", "crane (wading bird)"),
    281: ("n02123045", "tabby, tabby cat"),
    517: ("n03126707", "crane (lifting device)"),
    639: ("n03710721", "maillot, tank suit"),
    970: ("n09193705", "alp"),
    999: ("n15075141", "toilet tissue, toilet paper, bathroom tissue"),
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_order_and_sets():
    classes = imagenet_classes()
    ids = [known.id for known in classes]
    assert len(classes) == 1000 and ids == sorted(set(ids))
    assert len({known.name for known in classes}) == 1000 and all(known.name.strip() for known in classes)
    for number, (identity, name) in KNOWN.items():
        assert (classes[number].id, classes[number].name) == (identity, name)
    # The lists in the authors' own eval.py, of all ids and of the numbers of either set's 200 classes.
    assert digest(" ".join(ids)) == "791ce0333040dd24"
    for letter, wanted in (("A", "a2d0b3a7d6a8360f"), ("R", "1bfdbfb1fe9bc564")):
        own = [number for number, known in enumerate(classes) if letter in known.sets]
        assert (len(own), digest(str(own))) == (200, wanted)
    assert {known.sets for known in classes} == {"-", "A", "R", "AR"}
