"""The re-identification example: what it reads, how it ranks, what it changes in a network."""

import argparse
import math
import runpy
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

pytest.importorskip('pytorch_metric_learning')
EXAMPLE = argparse.Namespace(
    **runpy.run_path(str(Path(__file__).parents[1] / 'examples' / 'reidentification.py'), run_name='reidentification')
)


def slow_rank(query, query_persons, query_cameras, gallery, gallery_persons, gallery_cameras):
    """The protocol, one query and one image of the gallery at a time."""
    first, five, precisions = [], [], []
    for q in range(len(query)):
        ranking = []
        for g in range(len(gallery)):
            if (gallery_persons[g], gallery_cameras[g]) != (query_persons[q], query_cameras[q]):
                cosine = F.cosine_similarity(query[q], gallery[g], dim=0).item()
                ranking.append((cosine, bool(gallery_persons[g] == query_persons[q])))
        right = [same for _, same in sorted(ranking, reverse=True)]
        if not any(right):
            continue
        first.append(right[0])
        five.append(any(right[:5]))
        found = [sum(right[: place + 1]) / (place + 1) for place, same in enumerate(right) if same]
        precisions.append(sum(found) / len(found))
    return {
        name: 100 * sum(values) / len(values)
        for name, values in (('rank-1', first), ('rank-5', five), ('mAP', precisions))
    }


def test_ranks_as_a_slow_reference():
    """Generated persons with distractors (0) in the gallery; person 9 is seen by no other camera and not counted."""
    torch.manual_seed(0)
    query_persons, gallery_persons = torch.randint(1, 6, (24,)), torch.randint(0, 6, (80,))
    query_cameras, gallery_cameras = torch.randint(1, 4, (24,)), torch.randint(1, 4, (80,))
    query_persons[:2], query_cameras[:2], gallery_persons[:3], gallery_cameras[:3] = 9, 1, 9, 1
    places = torch.randn(10, 6)
    query, gallery = (
        places[persons] + 1.5 * torch.randn(len(persons), 6) for persons in (query_persons, gallery_persons)
    )
    sets = (query, query_persons, query_cameras, gallery, gallery_persons, gallery_cameras)
    measured, wanted = EXAMPLE.rank(*sets), slow_rank(*sets)
    assert measured.keys() == wanted.keys()
    for name, value in wanted.items():
        assert 0 < value < 100 and math.isclose(measured[name], value, rel_tol=1e-6), name


def test_a_set_of_one_camera_is_refused():
    one = torch.ones(3, dtype=torch.long)
    with pytest.raises(ValueError, match='several cameras'):
        EXAMPLE.rank(torch.randn(3, 6), one, one, torch.randn(3, 6), one, one)


def test_reads_the_layout_and_leaves_junk_out(tmp_path):
    EXAMPLE.draw_toy_persons(tmp_path, persons=4, cameras=2, images=2)
    folders = ('bounding_box_train', 'query', 'bounding_box_test')
    train, query, gallery = (EXAMPLE.Persons(tmp_path / name, transform=lambda image: image) for name in folders)
    assert set(train.persons.tolist()) == {1, 2} and set(query.persons.tolist()) == {3, 4}
    assert set(gallery.persons.tolist()) == {0, 3, 4}
    assert set(gallery.cameras.tolist()) == {1, 2}
    assert list((tmp_path / 'bounding_box_test').glob('-1_*.jpg'))
    image, person = query[0]
    assert image.size == (32, 64) and person == 3


def test_folder_of_other_names_is_refused(tmp_path):
    with pytest.raises(ValueError, match='0002_c1s1_000451_03.jpg'):
        EXAMPLE.Persons(tmp_path, transform=None)


@pytest.mark.parametrize('name', ['resnet18', 'resnet10t', 'resnext50_32x4d'])
def test_last_stage_keeps_the_resolution(name):
    with torch.device('meta'):
        backbone = timm.create_model(name, num_classes=0)
        EXAMPLE.take_last_stride(backbone)
        assert backbone.forward_features(torch.empty(1, 3, 256, 128)).shape[2:] == (16, 8)


@pytest.mark.parametrize('name', ['convnext_atto', 'resnetblur50'])
def test_network_without_such_a_stage_is_refused(name):
    with torch.device('meta'):
        backbone = timm.create_model(name, num_classes=0)
    with pytest.raises(ValueError, match='--last-stride 2'):
        EXAMPLE.take_last_stride(backbone)
