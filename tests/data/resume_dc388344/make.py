"""Make what stands beside this file, with the code of the commit that the folder is named after.

    git clone . ../old && git -C ../old checkout dc388344
    rm -r tests/data/resume_dc388344/{detection,export,project,segmentation,suite}
    PYTHONPATH=../old python tests/data/resume_dc388344/make.py        # six minutes of a core; or only: … make.py suite

All is done by the command lines in ``HOME``, whose name becomes ``FOLDER`` in the files. A training of 8 iterations
gets SIGTERM in the fourth, as from a cluster, and is then resumed in a copy, for ``recorded.json``.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import torch

HERE, HOME = Path(__file__).parent.resolve(), Path('/tmp/mmdistill_of_before')
KEPT = ('result.json', 'state.json', 'run.py', 'scalars.json', 'last_checkpoint', 'runs.json', 'checked.json', '.begun')


def run(*words, stop=0):
    """Run ``mmdistill``; with ``stop``, SIGTERM comes in this iteration."""
    command = [sys.executable, __file__, 'stop', str(stop), *words]
    code = subprocess.run(list(map(str, command)), env=dict(os.environ, OMP_NUM_THREADS='1')).returncode
    assert code == (128 + signal.SIGTERM if stop else 0), (words, code)


def command_line(stop, words):
    """Be ``mmdistill``, and end as a cluster would end it."""
    from mmengine.hooks import IterTimerHook

    from mmdistill_dense.__main__ import main

    plain = IterTimerHook._after_iter

    def after_iter(self, runner, *args, mode='train', **kwargs):
        plain(self, runner, *args, mode=mode, **kwargs)
        if mode == 'train' and runner.iter + 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    IterTimerHook._after_iter = after_iter
    sys.exit(main(words))


def without_home(content):
    if isinstance(content, dict):
        return type(content)((key, without_home(value)) for key, value in content.items())
    if isinstance(content, (list, tuple)):
        return type(content)(map(without_home, content))
    return content.replace(str(HOME), 'FOLDER') if isinstance(content, str) else content


def keep(source, target, *more):
    """Copy what is read again, without the folders of this machine."""
    for file in sorted(source.absolute().rglob('*')):
        dump = file.name == 'config.py' and file.parent.name == 'vis_data'
        if file.is_file() and (dump or file.name in (*KEPT, *more)):
            place = target / file.relative_to(source.absolute())
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == '.pth':
                content = torch.load(file, weights_only=False)
                content.update({key: without_home(content[key]) for key in ('meta', 'message_hub') if key in content})
                torch.save(content, place)
                continue
            text = file.read_text().replace(str(HOME), 'FOLDER')
            place.write_text(re.sub(r'"host": "[^"]*"', '"host": "machine"', text))


def save_weights(content, place):
    torch.save(dict(state_dict=content['state_dict'], meta=dict(dataset_meta=content['meta']['dataset_meta'])), place)


def train(task):
    """A training that stops in its middle; what its rest gives is recorded."""
    shutil.copy(HERE / f'configs/{task}.py', 'config.py')
    run('train', 'config.py', stop=4)
    shutil.copytree('work', 'before')
    keep(Path('work'), HERE / task / 'work', 'iter_4.pth')
    if Path('work/maskd_tokens').is_dir():
        shutil.copytree('work/maskd_tokens', HERE / task / 'work/maskd_tokens')
    run('train', 'config.py', '--resume')
    steps = {}
    newest = max(Path('work').rglob('scalars.json'))
    for line in newest.read_text().splitlines():
        values = {key: value for key, value in json.loads(line).items() if 'loss' in key or 'weight' in key}
        steps.setdefault(json.loads(line)['step'], {}).update(values)
    end, start = (torch.load(f'work/iter_{number}.pth', weights_only=False) for number in (8, 4))
    moved = {}
    for part in ('state_dict', 'ema_state_dict', 'distillers'):
        for name, value in end.get(part, {}).items():
            moved[f'{part}.{name}'] = float(f'{(value.double() - start[part][name].double()).norm().item():.7g}')
    (HERE / task / 'recorded.json').write_text(json.dumps(dict(steps=steps, moved=moved), indent=1) + '\n')
    shutil.copy('teacher.pth', HERE / task)
    shutil.rmtree('work')
    shutil.rmtree('before')


def make_trainings():
    """A segmentor that learns alone and is exported: the teacher of one; the other's is a detector at random."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    shutil.copy(HERE / 'configs/segmentation.py', 'config.py')
    alone = ['model.distillers=None', 'model.unlabelled=None', 'train_cfg.max_iters=400', 'param_scheduler=None']
    run('train', 'config.py', '--work-dir', 'alone', '--cfg-options', *alone, 'custom_hooks=[]')
    run('export', 'config.py', 'alone/iter_400.pth', 'export/student.pth')
    run('predict', 'export/student.pth', 'mine/images/val', '--out', 'found', '--device', 'cpu')
    shutil.copytree('export', HERE / 'export', dirs_exist_ok=True)
    (HERE / 'export/labels').mkdir(exist_ok=True)
    for file in Path('found/labels').rglob('*.png'):
        shutil.copy(file, HERE / 'export/labels')
    save_weights(torch.load('alone/iter_400.pth', weights_only=False), 'teacher.pth')
    train('segmentation')

    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    torch.manual_seed(1)
    network = MODELS.build(Config.fromfile(HERE / 'configs/detection.py').model.student)
    meta = dict(dataset_meta=dict(classes=('red', 'blue')))
    save_weights(dict(state_dict=network.state_dict(), meta=meta), 'teacher.pth')
    train('detection')


def make_project():
    """A project whose method was stopped; its places count from MMDISTILL_DATA, so that it may be moved."""
    os.environ['MMDISTILL_DATA'] = str(HOME)
    networks = ['--student', 'net.py', '--teacher', 'net.py', '--iters', '40', '--batch', '2', '--method', 'pcd']
    run('new', '--data', 'mine', *networks, '--out', 'project')
    rows = ['control', 'control_x2', 'control_x4']
    run('suite', 'run', 'project/suite.yaml', '--only', *rows, 'teacher')
    teacher = Path('project/work/teacher/iter_40.pth')
    save_weights(torch.load(teacher, weights_only=False), teacher)  # all that a student reads, in a third of the bytes
    run('suite', 'job', 'project/suite.yaml', 'pcd', '--seed', '0', stop=24)
    configs = [file.name for file in Path('project').glob('*.py')]
    keep(Path('project'), HERE / 'project', 'suite.yaml', 'iter_24.pth', *configs)
    shutil.copy(teacher, HERE / teacher)
    del os.environ['MMDISTILL_DATA']


def make_suite():
    """A suite that is done; its weights are too large."""
    Path('suite').mkdir()
    shutil.copy(HERE / 'configs/suite.yaml', 'suite')
    run('suite', 'run', 'suite/suite.yaml')
    run('suite', 'table', 'suite/suite.yaml')
    keep(Path('suite'), HERE / 'suite', 'suite.yaml', 'scores.csv')


def make_names():
    list_names = [sys.executable, HERE.parents[1] / 'public_names.py']
    (HERE / 'names.txt').write_text(subprocess.run(list_names, capture_output=True, text=True, check=True).stdout)


def make(*parts):
    from tests.test_resume_of_before import write_pictures

    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    os.chdir(HOME)
    boxes = write_pictures(Path('pictures/img'), Path('pictures/ann'), range(24))
    Path('pictures/boxes.json').write_text(json.dumps(boxes))
    write_pictures(Path('pictures/more'), Path('pictures/unused'), range(30, 36))
    for split, numbers in (('train', range(14)), ('val', range(14, 18))):
        write_pictures(Path('mine/images', split), Path('mine/labels', split), numbers)
    shutil.copy(HERE / 'configs/net.py', 'net.py')
    for part in parts or ('trainings', 'project', 'suite', 'names'):
        globals()[f'make_{part}']()
    shutil.rmtree(HOME)


if __name__ == '__main__':
    if sys.argv[1:2] == ['stop']:
        command_line(int(sys.argv[2]), sys.argv[3:])
    else:
        make(*sys.argv[1:])
