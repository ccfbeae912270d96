"""Builds a Nix store out of this machine's installed Debian packages, into the folder that is given.

One store path per package: its regular files and links below the system prefix, and
nix-support/references, which names the store paths of its dependencies, so that the declared
references really occur in the contents. References are Depends and Pre-Depends, cycles broken at the
back edge. Two sets, S (150 paths, 0.4 GB) inside M (600, 2 GB), each with a toplevel as a NixOS
system has one, in generation 1 and 2. In generation 2 some 10% of the paths differ: packages picked
by fewest dependents first, closed upwards, as every dependent of a changed path changes too.
Writes nix/store, registration.txt (for nix-store --load-db) and workload.json.
"""
import functools, hashlib, json, os, random, re, shutil, stat, struct, subprocess, sys

OUT, = sys.argv[1:2]
GOALS = {'S': (150, 400e6, .75), 'M': (600, 2000e6, .45)}     # paths, NAR bytes, share of big packages
SMALL = os.environ.get('BENCH_TINY')             # a tenth, for a quick try of the scripts
if SMALL: GOALS = {'S': (30, 30e6, .75), 'M': (60, 100e6, .5)}
STORE = '/nix/store'
B32 = '0123456789abcdfghijklmnpqrsvwxyz'
h32 = lambda s: ''.join(B32[b & 31] for b in hashlib.sha512(s.encode()).digest()[:32])

pk = {}
for l in subprocess.run(['dpkg-query', '-W', '-f=${binary:Package}\t${Version}\t${Depends}, ${Pre-Depends}\t${Status}\n'],
                        check=True, capture_output=True, text=True).stdout.splitlines():
    n, v, d, s = l.split('\t')
    if s.endswith(' installed'):
        pk[n.split(':')[0]] = dict(full=n, ver=v, dep=[re.split(r'[ :(]', x.strip())[0] for y in d.split(',') for x in y.split('|')])
def files(p):
    if 'files' not in p:
        fs = []; size = 0
        for f in subprocess.run(['dpkg', '-L', p['full']], capture_output=True, text=True).stdout.splitlines():
            parts = f.split('/')[1:]
            if parts[:1] == ['usr']: parts = parts[1:]
            if len(parts) < 2 or not f.startswith('/') or parts[0] not in ('bin', 'sbin', 'lib', 'lib32', 'lib64', 'libexec', 'share', 'include', 'games', 'src'): continue
            rel = '/'.join(parts)
            try: s = os.lstat(f)
            except OSError: continue
            if stat.S_ISREG(s.st_mode) or stat.S_ISLNK(s.st_mode):
                fs.append((rel, f, s)); size += s.st_size + 200
        p['files'] = fs; p['size'] = size
    return p['files']
for n, p in list(pk.items()):
    files(p)
    if len(p['files']) == 0: del pk[n]
for p in pk.values(): p['dep'] = sorted({d for d in p['dep'] if d in pk})
# break cycles: depth-first, drop the edge that closes a cycle
state = {}
def dfs(n):
    state[n] = 1
    p = pk[n]; keep = []
    for d in p['dep']:
        if d == n or state.get(d) == 1: continue
        if d not in state: dfs(d)
        keep.append(d)
    p['dep'] = keep; state[n] = 2
sys.setrecursionlimit(10000)
for n in sorted(pk): dfs(n)
def closure(ns):
    out = set(); todo = list(ns)
    while todo:
        n = todo.pop()
        if n not in out: out.add(n); todo += pk[n]['dep']
    return out
order = sorted(pk, key=lambda n: hashlib.sha256(n.encode()).digest())
def fill(chosen, count, size, share):
    tot = lambda c: sum(pk[n]['size'] for n in c)
    for want_big in (True, False):
        for n in order:
            c = chosen | closure([n])
            if len(c) > count - 2 or tot(c) > size * 1.02 or len(c) == len(chosen): continue
            if want_big and (pk[n]['size'] < size / 60 or pk[n]['size'] > size / 6 or tot(c) > size * share or len(c) > count * .6): continue
            chosen = c
    return chosen
sets = {'S': fill(set(), *GOALS['S'])}
sets['M'] = fill(set(sets['S']), *GOALS['M'])

rdeps = lambda s: {n: {m for m in s if n in pk[m]['dep']} for n in s}
def up(n, rd):
    out = set(); todo = [n]
    while todo:
        x = todo.pop()
        if x not in out: out.add(x); todo += rd[x]
    return out
def changed_of(s):
    rd = rdeps(s); ch = set(); size = sum(pk[n]['size'] for n in s)
    for n in sorted(s, key=lambda n: (len(up(n, rd)) > 12, hashlib.sha256(('u' + n).encode()).digest())):
        c = ch | up(n, rd)
        # One package that outweighs all others together would make an update a measurement of one decoder.
        if any(pk[m]['size'] > size * .05 for m in c): continue
        if len(c) <= max(1, round(len(s) * .10)) and sum(pk[m]['size'] for m in c) < size * .15: ch = c
    return ch
changed = {w: changed_of(sets[w]) for w in sets}

def narhash(path):
    h = hashlib.sha256(); size = 0
    def w(b):
        nonlocal size
        h.update(b); size += len(b)
    def s(b):
        w(struct.pack('<Q', len(b)) + b + b'\0' * (-len(b) % 8))
    def node(p):
        st = os.lstat(p); s(b'(')
        if stat.S_ISLNK(st.st_mode):
            for x in (b'type', b'symlink', b'target', os.fsencode(os.readlink(p))): s(x)
        elif stat.S_ISDIR(st.st_mode):
            s(b'type'); s(b'directory')
            for e in sorted(os.listdir(os.fsencode(p))):
                s(b'entry'); s(b'('); s(b'name'); s(e); s(b'node'); node(os.path.join(os.fsencode(p), e)); s(b')')
        else:
            s(b'type'); s(b'regular')
            if st.st_mode & 0o100: s(b'executable'); s(b'')
            s(b'contents'); w(struct.pack('<Q', st.st_size))
            with open(p, 'rb') as f:
                while b := f.read(1 << 20): w(b)
            w(b'\0' * (-st.st_size % 8))
        s(b')')
    s(b'nix-archive-1'); node(path)
    return h.hexdigest(), size

info = {}; reg = open(os.path.join(OUT, 'registration.txt'), 'w'); nfiles = 0
def finish(sp, refs):
    real = OUT + sp
    for d, ds, fs in os.walk(real):
        for f in fs:
            p = os.path.join(d, f)
            if not os.path.islink(p): os.chmod(p, 0o555 if os.lstat(p).st_mode & 0o100 else 0o444)
            os.utime(p, (1, 1), follow_symlinks=False)
    for d, ds, fs in os.walk(real, topdown=False):
        os.chmod(d, 0o555); os.utime(d, (1, 1))
    hx, size = narhash(real); refs = sorted(set(refs))
    info[sp] = dict(narHash='sha256:' + hx, narSize=size, references=refs)
    reg.write('\n'.join([sp, hx, str(size), '', str(len(refs))] + refs) + '\n')
def refs_file(real, refs):
    os.makedirs(real + '/nix-support', exist_ok=True)
    with open(real + '/nix-support/references', 'w') as f: f.write(''.join(r + '\n' for r in sorted(set(refs))))

@functools.lru_cache(None)
def make(n, w, gen):
    """the store path of package n in generation gen of set w (a path that did not change is shared)"""
    global nfiles
    p = pk[n]; g = gen if n in changed[w] else 1
    refs = [make(d, w, g) for d in p['dep']]
    name = re.sub(r'[^A-Za-z0-9+._?=-]', '-', f"{n}-{p['ver'].split(':')[-1]}" + ('' if g == 1 else 'u1'))
    sp = f"{STORE}/{h32(name + ''.join(refs))}-{name}"; real = OUT + sp
    if sp in info: return sp
    rnd = random.Random(name)
    os.makedirs(real)
    for rel, src, s in p['files']:
        dst = os.path.join(real, rel)
        if os.path.lexists(dst): continue
        try: os.makedirs(os.path.dirname(dst), exist_ok=True)
        except OSError: continue            # a parent that is a link here: left out
        nfiles += 1
        if stat.S_ISLNK(s.st_mode): os.symlink(os.readlink(src), dst); continue
        shutil.copyfile(src, dst); os.chmod(dst, 0o755 if s.st_mode & 0o111 else 0o644)
        if g == 2 and s.st_size > 64 and rnd.random() < .25:        # a quarter of the files: 1% rewritten in place
            with open(dst, 'r+b') as f:
                k = max(16, s.st_size // 100); f.seek(rnd.randrange(max(1, s.st_size - k))); f.write(rnd.randbytes(k))
    refs_file(real, refs); finish(sp, refs)
    return sp

out = dict(workloads={}, paths=info)
for w in 'SM':
    for gen in (1, 2):
        members = [make(n, w, gen) for n in sorted(sets[w])]
        used = {r for m in members for r in info[m]['references']}
        def wrap(name, refs):
            sp = f"{STORE}/{h32(name + ''.join(refs))}-{name}"
            os.makedirs(OUT + sp); refs_file(OUT + sp, refs); finish(sp, refs)
            return sp
        # as in a NixOS system: toplevel -> system-path -> the packages nobody else depends on -> ...
        env = wrap(f'system-path-{w}-{gen}', [m for m in members if m not in used])
        sp = wrap(f'system-{w}-{gen}', [env])
        clo = sorted(members + [env, sp])
        depth = {}
        def dep(s):
            if s not in depth: depth[s] = 1 + max([dep(r) for r in info[s]['references'] if r != s], default=0)
            return depth[s]
        out['workloads'][f'{w}{gen}'] = dict(toplevel=sp, paths=len(clo), narBytes=sum(info[s]['narSize'] for s in clo),
                                            depth=dep(sp), closure=clo)
reg.close()
for w in 'SM':
    a, b = (set(out['workloads'][f'{w}{g}']['closure']) for g in (1, 2))
    x = out['workloads'][f'{w}2']; x['changed'] = sorted(b - a); x['changedNarBytes'] = sum(info[s]['narSize'] for s in b - a)
    for g in '12':
        y = out['workloads'][w + g]
        print(f"{w}{g}: {y['paths']} paths, {y['narBytes'] / 1e6:.0f} MB NAR, depth {y['depth']}"
              + (f", changed {len(y['changed'])} paths {y['changedNarBytes'] / 1e6:.0f} MB" if g == '2' else ''))
out['files'] = nfiles
json.dump(out, open(os.path.join(OUT, 'workload.json'), 'w'))
