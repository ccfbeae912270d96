"""Runs several commands in turn (A B C, B C A, ...) and prints wall, CPU, peak memory and ratios.

The first command is the reference: ratios are other/reference, taken round by round, so that they
survive a machine that drifts. --prep runs, not timed, before every run and --post after it, with
$RUN_NAME set. --goal `cpu 0.75` (or wall, or peak in MiB) is what the last command must keep; with
--table FILE it is written there beside what was seen, as a row of a table. CPU is user+system of the command and every child that it waited for; `others` is what
the rest of the machine used meanwhile, in cores, the server that the command talks to included. A
peak below this program's own 15 MiB cannot be seen, since the child starts as its fork.
"""
import argparse, os, resource, signal, statistics as st, subprocess, sys, time

def busy():
    f = open('/proc/stat').readline().split()[1:]
    v = [int(x) for x in f]
    return (sum(v) - v[3] - v[4]) / os.sysconf('SC_CLK_TCK')

def one(cmd, timeout, out, env):
    b0, t0 = busy(), time.monotonic()
    p = subprocess.Popen(['sh', '-c', cmd], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True)
    killed = False
    def on_alarm(*_):
        nonlocal killed
        killed = True
        os.killpg(p.pid, signal.SIGKILL)
    signal.signal(signal.SIGALRM, on_alarm); signal.alarm(timeout)
    _, status, ru = os.wait4(p.pid, 0)
    wall = time.monotonic() - t0
    signal.alarm(0)
    p.returncode = os.waitstatus_to_exitcode(status)
    cpu = ru.ru_utime + ru.ru_stime
    return dict(rc=p.returncode, killed=killed, wall=wall, user=ru.ru_utime, sys=ru.ru_stime, cpu=cpu,
                rss=ru.ru_maxrss / 1024, outblk=ru.ru_oublock * 512 / 1e6, others=max(0.0, (busy() - b0 - cpu) / wall))

def mmm(v, f='%.2f'):
    return '/'.join(f % x for x in (min(v), st.median(v), max(v)))

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--runs', type=int, default=3); ap.add_argument('--timeout', type=int, default=600)
    ap.add_argument('--prep', default=''); ap.add_argument('--post', default='')
    ap.add_argument('--title', default=''); ap.add_argument('--log', default='pair.log')
    ap.add_argument('--goal', action='append', default=[]); ap.add_argument('--table')
    ap.add_argument('cmds', nargs='+')
    a = ap.parse_args()
    goals = [(g.split()[0], float(g.split()[1])) for g in a.goal]
    cmds = [c.split('=', 1) for c in a.cmds]
    if not all(len(c) == 2 for c in cmds):
        ap.error('a command is NAME=COMMAND')
    res = {n: [] for n, _ in cmds}; bad = {}
    log = open(a.log, 'ab')
    for r in range(a.runs):
        k = r % len(cmds)
        for n, c in cmds[k:] + cmds[:k]:
            if n in bad: continue
            env = dict(os.environ, RUN_NAME=n)
            if a.prep and subprocess.run(['sh', '-c', a.prep], env=env, stdout=log, stderr=log).returncode:
                bad[n] = 'prep failed'; continue
            log.write(f'== {n}: {c}\n'.encode()); log.flush()
            x = one(c, a.timeout, log, env)
            if x['rc'] or x['killed']:
                bad[n] = 'timed out' if x['killed'] else f"exit {x['rc']}"; continue
            if a.post and subprocess.run(['sh', '-c', a.post], env=env, stdout=log, stderr=log).returncode:
                bad[n] = 'post check failed'; continue
            res[n].append(x)
    print(f"## {a.title}  runs={a.runs} load={open('/proc/loadavg').read().split()[0]} (min/median/max)")
    print(f"{'name':<22}{'wall s':>20}{'cpu s':>20}{'user':>7}{'sys':>7}{'peak MiB':>10}{'others':>8}{'wall x':>8}{'cpu x':>8}")
    ref = cmds[0][0]
    for n, _ in cmds:
        v = res[n]
        if n in bad or not v:
            print(f'{n:<22}  FAILED: {bad.get(n)} (see {a.log})'); continue
        m = lambda k: st.median(x[k] for x in v)
        def ratio(k):
            p = [x[k] / y[k] for x, y in zip(v, res[ref]) if y[k] > 0]
            return '%.2f' % st.median(p) if p and ref not in bad else '-'
        print(f"{n:<22}{mmm([x['wall'] for x in v]):>20}{mmm([x['cpu'] for x in v]):>20}{m('user'):>7.2f}{m('sys'):>7.2f}"
              f"{max(x['rss'] for x in v):>10.1f}{m('others'):>8.2f}{ratio('wall'):>8}{ratio('cpu'):>8}")
    if a.table:
        with open(a.table, 'a') as table: table.write(table_row(a.title, goals, res, cmds[0][0], cmds[-1][0], bad))
    sys.stdout.flush()
    return 1 if bad else 0

def table_row(title, goals, res, ref, own, bad):
    """What must be and what was, a median for times and the most for memory, each with its range."""
    wanted, seen, holds = [], [], not bad
    for kind, limit in goals:
        if kind == 'peak':
            wanted.append(f'peak ≤ {limit:.0f} MiB')
            values = [x['rss'] for x in res[own]]
            holds = holds and max(values) <= limit
            seen.append('peak ' + mmm(values, '%.0f') + ' MiB')
        else:
            wanted.append(f"{'CPU' if kind == 'cpu' else kind} ≤ {limit:.2f}×")
            values = [x[kind] / y[kind] for x, y in zip(res[own], res[ref]) if y[kind] > 0] or [float('nan')]
            holds = holds and st.median(values) <= limit
            seen.append(f"{'CPU' if kind == 'cpu' else kind} {mmm(values)}×")
    return f"| {title} | {', '.join(wanted)} | {', '.join(seen)} | {'yes' if holds else 'NO'} |\n"

if __name__ == '__main__':
    sys.exit(main())
