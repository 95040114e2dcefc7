"""What a bench prints."""

from inference.rows import Run


def test_an_error_with_brackets_shows_in_the_table(capsys):
    from inference.rows import Row
    from inference.show import show_run

    row = Row(
        model='m', engine='e', lowering='portable', batch=1, threads=1, macs=1, params=1, status='failed',
        error='cannot load [/usr/lib/x.so]',
    )  # fmt: skip
    show_run(Run(created='now', environment={}, settings={'complete': True}, rows=[row]))
    assert 'm on e failed: cannot load [/usr/lib/x.so]' in capsys.readouterr().out


def test_a_narrow_terminal_shows_whole_names_and_the_main_figures(monkeypatch, capsys):
    from synthetic_runs import make_rows, make_run

    from inference.show import show_run

    for columns, shown in (('80', 0), ('160', 1)):
        monkeypatch.setenv('COLUMNS', columns)
        monkeypatch.setenv('TTY_COMPATIBLE', '1')  # rich takes the output for a terminal
        show_run(make_run(make_rows(arch='resnet20_cifar')))
        lines = [line for line in capsys.readouterr().out.splitlines() if 'torch-compile' in line or 'openvino' in line]
        table = [line for line in lines if 'over the fastest' not in line]
        assert table
        assert all('resnet20_cifar_p' in line for line in table)
        assert all(('–' in line) == bool(shown) for line in table)
        assert all(len(line) <= int(columns) for line in table)
