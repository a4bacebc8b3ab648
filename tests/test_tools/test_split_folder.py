# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
from conftest import call_main, load_tool, main_error

tool = load_tool('tools/dataset_converters/split_folder.py')


@pytest.fixture
def source(tmp_path):
    """Four images of a cat, three of a dog."""
    for name, count in dict(cat=4, dog=3).items():
        (tmp_path / 'images' / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / 'images' / name / f'{i}.png').write_text(f'{name} {i}')
    return tmp_path / 'images'


def test_parts_have_the_images_in_order(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'split'
    call_main(monkeypatch, tool, source, out, 'train=2', 'final=1')
    assert '2 classes' in capsys.readouterr().out
    assert {str(p.relative_to(out)): p.read_text()
            for p in out.rglob('*.png')} == {
        f'{part}/{name}/{i}.png': f'{name} {i}' for name in ('cat', 'dog')
        for part, i in (('train', 0), ('train', 1), ('final', 2))}
    assert 'split exists' in main_error(monkeypatch, tool, source, out, 'train=1')


def test_too_few_images(source, tmp_path, monkeypatch):
    error = main_error(
        monkeypatch, tool, source, tmp_path / 'split', 'train=2', 'final=2')
    assert 'dog has 3 images, the parts need 4' in error
    assert [p.name for p in tmp_path.iterdir()] == ['images']


@pytest.mark.parametrize('part', ['train', 'train=0', '=3', 'a/b=3'])
def test_parts_that_are_none(part, source, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call_main(monkeypatch, tool, source, tmp_path / 'split', part)
    assert 'expected NAME=COUNT, such as train=300' in capsys.readouterr().err
