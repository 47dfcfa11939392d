"""Small templates, one feature each, for make_chat_vectors.py."""

CONTEXT = {
    "s": "Hello, World", "u": "Grüße 🙂 Straße", "sp": " \t padded\n\u00a0", "e": "", "n": None, "t": True, "f": False,
    "i": 7, "neg": -7, "x": 2.5, "big": 9007199254740993, "l": [3, 1, 2], "words": ["b", "A", "c", "a"], "el": [],
    "d": {"b": 1, "a": [1, 2, {"k": "v"}], "C": None, "items": "shadow"}, "ed": {},
    "people": [{"name": "Bo", "age": 30, "tags": ["x"]}, {"name": "al", "age": 25, "tags": []}, {"name": "Cy", "age": 30}],
    "nested": [[1, 2], [3, [4, 5]]], "q": "it's \"so\"", "ctl": "a\u0001\u007f\u0085\u2028\u00ad", "lines": "a\nb\r\nc\n\nd",
}

EXPRESSIONS = r"""
'{} {} {}'.format(1, none, x)
'{1}{0}{{}}'.format('a', s)
'{a}{b}'.format(a=l, b='ü')
'{}'.format()
'{3}'.format(1, 2)
'{00}{1}'.format(1, 2)
'{0}{}'.format(1, 2)
'{}{0}'.format(1, 2)
'{'.format()
'a}b'.format(1)
'{{{}}}'.format(u)
'{a}'.format(1)
'{}'.format(nope)
'{} {}'.format(d, t)
'{}'.format(1, 2, 3)
s.format(1)
'<a>'|safe + '<b>'
'<a>' + '<b>&\'"'|safe
'<a>' + ('<b>'|safe + '<c>')
('<a>'|safe + '&')|upper + '<'
('<a> '|safe)|trim + '<'
(' <a> '|safe).strip() + '<'
('<a>'|safe).lower().title() + '<'
('<a>'|safe)[1:] + '<'
('<a>'|safe)[0] + '<'
'<a>'|safe ~ '<b>'
('<a>'|safe)|replace('a', '<') + '<'
('<a>'|safe)|string + '<'
('<a>'|safe)|tojson + '<'
('<x\n\ny'|safe)|indent + '<'
('<x y'|safe)|title + '<'
['<a>'|safe, ('<b>'|e)]
('<a>'|safe)|e
('<a>'|safe + 'b') is escaped
('<a>'|safe)[0] is escaped
1 + '<a>'|safe
'<a>'|safe + 1
'<a>'|safe + none
'<a>'|safe + nope
('<a>'|safe)|length
('<ab>'|safe)|first + '<'
('<ab>'|safe)|list|join + '<'
'%s!' % ('<a>'|safe) + '<'
('<a>'|safe).startswith('<')
('<a>'|safe) in '<a>b'
('<a>'|safe) == '<a>'
('<a>'|safe)|default('x') + '<'
1 + 2 * 3
(1 + 2) * 3
7 // 2
neg // 2
neg % 3
7 % -3
7 / 2
2 ** 10
2 ** -1
2 ** 3 ** 2
-2 ** 2
-i|abs
1 - -1
+i
-x
7.0 // 2
-7.5 // 2
-7.5 % 2
5.5 % -2
1e16
1e15
123456789012345680.0
1e-4
1e-5
0.1 + 0.2
1.5e300 * 1e10
1/3
100.0
x * 2
true + true
t * 3
big
big + 1
9223372036854775807
1_000
1.5e3
[1.0, 2e20, 0.1, -0.0]
i / 0
i % 0
i // 0
1.0 / 0
1 == 1.0
true == 1
'1' == 1
1 != 2
none == none
1 < 2 < 3
1 < 3 < 2
3 > 2 >= 2
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
[1, 2] == [1, 2]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1.0}
nope == nada
nope == none
nope < 1
big == 9007199254740992.0
big > 9007199254740992.0
'a' in s
'Hello' in s
'' in s
1 in l
9 not in l
'b' in d
'z' not in d
1 in s
1 in i
1 in nope
[1, 2] in nested
'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x'] ~ nope
'a' ~ 1 + 2
'a' + 'b' * 3
3 * 'ab'
'ab' * 0
'ab' * -1
[1] * 3
[1] + [2, 3]
(1,) + (2,)
[1] + (2,)
'a' + 1
1 + 'a'
none + 1
[] * 2.0
not true
not e
not l and t
t or nope.x
f and nope.x
f or e or 'last'
n and 1
'yes' if t else 'no'
'yes' if f else 'no'
'yes' if f
('a' if f) is undefined
1 if f else 2 if f else 3
'%s and %d' % ('x', 3)
'%s' % 'one'
'%s' % n
'%s' % [1, 'a']
'%s' % {'a': 1}
'%5s|%-5s|%05d|%.2f|%+d' % ('a', 'b', 42, 3.14159, 7)
'%x %X %o' % (255, 255, 8)
'%e %g' % (12345.678, 0.0001)
'%r' % 'a'
'%(a)s-%(b)d' % {'a': 'x', 'b': 2}
'100%%' % ()
'%s %s' % 'a'
'%s' % ('a', 'b')
'%d' % 'a'
'%d' % 3.9
'%.3s' % 'abcdef'
'%5s' % 'é'
s[0]
s[-1]
s[99]
s[1:4]
s[:-1]
s[::-1]
s[::2]
s[-3:]
s[5:2]
u[6]
u[6:]
u[::-1]
l[0]
l[-1]
l[5]
l[1:]
l[::-1]
l[-2:]
l[:100]
l[10:]
l[::-2]
l[5:0:-1]
l['append']
l.append(1)
l.append
d.pop('b')
d.update
(1, 2, 3)[1:]
(1,)
()
(1, 2)
[1, 2,]
{'a': 1, 'b': [true, none]}
{1: 'a', none: 'b', 1.5: 'c', true: 'd'}
{'a': 1}.a
{'a': 1}['a']
{[1]: 2}
d
d.a
d['a'][2]['k']
d.a[2].k
d.a.0
d.items
d['items']
d.b
d.zzz
d.zzz.y
d['zzz']
d[0]
d[[1]]
nope
nope.x
nope['x']
nope()
nope + 1
1 + nope
nope ~ 'x'
nope|length
nope is defined
d.zzz is defined
n.x
n['x']
n()
s()
i.x
s.x
s.x.y
d.keys()
d.values()
d.items()
ed.items()
d.keys()|list
d.values()|list|length
d.get('b')
d.get('z')
d.get('z', 'def')
d.get('a')[0]
d|length
d|list
s|length
u|length
l|length
i|length
nope|list
s.upper()
s.lower()
u.upper()
u.lower()
u|upper
'ΑΣ ΟΔΟΣ Σ'.lower()
'ǆ'.title()
'ﬁ'.capitalize()
s.title()
"it's a dog's life 3rd".title()
"it's a dog's (life) 3rd-party"|title
s.capitalize()
s|capitalize
s.swapcase()
sp.strip()
sp.lstrip()
sp.rstrip()
sp|trim
'xxaxx'.strip('x')
'abcba'.lstrip('ab')
'abcba'.rstrip('ab')
'xyx'|trim('x')
'  a '.strip(none)
'éaé'.strip('é')
s.split()
s.split(',')
s.split(', ', 1)
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
'a b  c '.split()
' a b  c '.split(none, 1)
' a b  c '.rsplit(none, 1)
'a b c'.split(' ', -1)
'a'.split('')
''.split()
''.split(',')
'abc'.split('abc')
s.split(sep=',')
s.startswith('Hello')
s.endswith('World')
s.startswith(('x', 'He'))
s.startswith('')
s.startswith(1)
s.replace('l', 'L')
s.replace('l', 'L', 1)
s.replace('', '-')
'abc'.replace('', '-', 2)
''.replace('', 'x')
s.replace('zz', 'x')
s|replace('l', 1)
s|replace('l', 'L', 2)
', '.join(words)
', '.join(l)
'-'.join('abc')
s.find('o')
s.find('zz')
s.rfind('o')
u.find('🙂')
s.index('W')
s.index('zz')
s.count('l')
s.count('')
'aaaa'.count('aa')
s.removeprefix('Hello')
s.removesuffix('World')
s.partition(', ')
s.partition('zz')
s.rpartition('l')
s.rpartition('zz')
'ab'.ljust(5) ~ '|'
'ab'.rjust(5, '*')
'ab'.center(5, '*')
'abc'.center(6, '*')
'abc'.center(8, '*')
'12'.isdigit()
'1a'.isdigit()
''.isdigit()
'ab1'.isalnum()
'ab'.isalpha()
' \n'.isspace()
s.islower()
'ABC'.isupper()
'abc'.islower()
lines.splitlines()
lines.splitlines(true)
[1, 2, 1].count(1)
[1, 2].index(2)
[1, 2].index(5)
q
[q, "it's", '"x"', 'a\b', 'n\nl\tt']
[ctl]
[u, '🙂', '\u200b']
[none, true, false, 1, 1.5, 'a', nope]
[[], {}, ()]
{'a': nope}
range(3)|list
range(2, 10, 3)|list
range(5, 0, -2)|list
range(0)|list
range(3)
range(0, 5, 2)
range(10)[2]
range(10)[-1]
range(10)[2:5]|list
range(10)|length
3 in range(5)
range(1, 2, 0)
range('a')
l|first
l|last
el|first
el|last
el|first is defined
s|first
s|last
nope|first
nope|last
range(5)|last
l|join
l|join(', ')
l|join(', ', attribute='x')
people|join('/', attribute='name')
nope|join
s|join('-')
d|join(',')
l|sort
l|sort(reverse=true)
words|sort
words|sort(case_sensitive=true)
people|sort(attribute='age')|map(attribute='name')|list
people|sort(attribute='age,name')|map(attribute='name')|list
people|sort(reverse=true, attribute='age')|map(attribute='name')|list
[1, 'a']|sort
l|reverse|list
s|reverse
l|min
l|max
el|min
words|min
words|max
people|max(attribute='age')
l|sum
people|sum(attribute='age')
el|sum
l|sum(start=10)
['a']|sum
[1, 2, 1, 3]|unique|list
words|unique|list
words|unique(true)|list
s|list
d|dictsort
d|dictsort(reverse=true)
{'b': 2, 'a': 3}|dictsort(by='value')
{'b': 2, 'B': 1, 'a': 0}|dictsort(true)
d|items|list
nope|items|list
l|items
words|map('upper')|list
words|map('upper')
l|map('string')|join('+')
people|map(attribute='age')|list
people|map(attribute='tags.0')|list
people|map(attribute='zzz', default='-')|join
people|map(attribute='tags')|map('length')|list
people|map(attribute='tags', default=[])|map('length')|list
words|map('nofilter')|list
words|map('replace', 'a', 'Z')|list
nested|map('first')|list
nested|map(attribute=1)|list
l|select('odd')|list
l|reject('odd')|list
l|select('gt', 1)|list
l|select|list
[0, 1, '', 'a', none]|select|list
[0, 1, '', 'a', none]|reject|list
l|select('divisibleby', 3)|list
l|select('in', [1, 2])|list
l|select('nosuch')|list
people|selectattr('age', 'equalto', 30)|map(attribute='name')|join(',')
people|selectattr('tags')|list|length
people|rejectattr('tags')|list|length
people|rejectattr('age', 'eq', 30)|list
people|selectattr('tags', 'defined')|list|length
people|selectattr('age', 'gt', 26)|list|length
people|selectattr('age', 'equalto', 30)|length
people|selectattr('age', 'equalto', 30)|first
people|selectattr('age', 'equalto', 30)|last
nope|selectattr('x')|list
'42'|int
'42.9'|int
' 42 '|int
'4_2'|int
'x'|int
'x'|int(9)
x|int
-2.7|int
n|int
t|int
'1e3'|int
'nan'|int
l|int
nope|int
'2.5'|float
'x'|float
'x'|float(1.5)
i|float
n|float
'inf'|float
'1e400'|float
neg|abs
-2.5|abs
'a'|abs
2.5|round
3.5|round
42.55|round(1)
42.55|round(1, 'floor')
42.45|round(1, 'ceil')
i|round
2.675|round(2)
2.5|round|int
x|round(method='ceil')
i|round(method='floor')
x|round(method='zz')
nope|default('d')
n|default('d')
n|default('d', true)
e|d('d', true)
e|default('d', boolean=true)
nope|default
d.zzz|default('x')
i|string + 'a'
l|string
x|string
'<a href="x">\'&'|e
'<a>'|escape|e
'<a>'|safe
'<a>'|safe ~ '<b>'
'a\nb\n\nc'|indent
'a\nb\n\nc'|indent(2, true)
'a\nb\n\nc'|indent(2, blank=true)
'a\nb'|indent('> ')
'a\n'|indent
lines|indent(1)
i|indent
'%s-%s'|format('a', 1)
'%(x)s'|format(x=3)
d|tojson
d|tojson(indent=2)
d|tojson(indent=0)
d|tojson(indent='\t')
d|tojson(separators=(',', ':'))
d|tojson(sort_keys=true)
u|tojson
u|tojson(ensure_ascii=true)
d|tojson(true, 1)
ctl|tojson
ctl|tojson(ensure_ascii=true)
'</script> & \' "'|tojson
[1, 2.0, 1e30, true, none, 'a\n\t\"']|tojson
(1, 2)|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
{(1, 2): 3}|tojson
[]|tojson(indent=2)
{}|tojson(indent=2)
[[], {}, [1]]|tojson(indent=2)
nope|tojson
[nope]|tojson
d.items()|tojson
range(3)|tojson
el|tojson
s|nosuchfilter
s is nosuchtest
1 is odd
2 is even
2.0 is even
9 is divisibleby 3
9 is divisibleby(3)
'a' is odd
n is none
nope is none
nope is undefined
s is string
u is string
i is number
t is number
x is number
s is number
i is integer
t is integer
x is float
i is float
t is boolean
i is boolean
t is true
1 is true
f is false
n is false
d is mapping
l is mapping
l is sequence
s is sequence
d is sequence
i is sequence
nope is sequence
range(3) is sequence
l is iterable
s is iterable
i is iterable
nope is iterable
d.items() is sequence
d.items() is iterable
(l|map('string')) is iterable
(l|map('string')) is sequence
s is callable
d.get is callable
range is callable
n is sameas none
t is sameas true
1 is sameas true
i is eq 7
i is equalto 7
i is ne 7
i is gt 5
i is ge 7
i is lt 5
i is le(7)
i is in [7, 8]
i is not in [7, 8]
'H' is in s
s is not string
s is defined and s is string
not s is string
'abc' is lower
'aBc' is lower
'ABC' is upper
'upper' is filter
'zz' is filter
'odd' is test
s is string is defined
namespace(a=1).a
namespace(a=1).b
namespace(_a=1)
dict(a=1, b='x')
dict({'a': 1}, b=2)
dict([('a', 1), ('b', 2)])
dict(1)
raise_exception('boom: ' ~ i)
raise_exception(nope)
raise_exception('ünï 🙂')
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y, %A %H:%M:%S %p %j %% %B %y')
strftime_now('%-d/%-m')
strftime_now('é %I')
s.__class__
s['__class__']
d.__class__.__mro__
'a' 'b'
"a\x41\u00e9\U0001F642\101\n\q"
'tab\tq'
'\''
s|upper|lower|title|replace(' ', '')|length
(s|upper)[0]
s|upper is string
s.upper().lower()
[s, u]|map('length')|sum
{'a': {'b': [10, 20]}}.a.b[1]
d.a|last|string
[1, 2, 3][true]
s[true]
s['upper']()
-1|abs
(-1)|abs
- 1 + 2
2 - 1 - 1
2 * 3 % 4
10 - 2 ~ 'x'
'a' if 1 == 1 and not 2 == 3 or f else 'b'
1 is odd and 2 is even
not 1 is even
1 in [1] == true
1 + 1 in [2]
s == 'Hello, World' and i > 3
'x' * i
[1, [2, 3]]|first
people[0].name ~ people[-1]['name']
people[0]['tags'][0]
people|length > 2
people[1:]|map(attribute='name')|join
l == l[:]
l[::-1] == [2, 1, 3]
d == d
range(3) == range(0, 3)
{'a': 1}.items()|list == [('a', 1)]
l[1.0]
l['1']
l[nope]
l[nope:]
l[:nope]
d[nope]
s[1:'a']
i[1:]
n[1:]
nope[1:]
d[1:]
10|string|length
none|string
'a'|d
loop
self
1,2
s.format(1)
s.zfill(3)
l|batch(2)
s.encode()
""".strip("\n").split("\n")

TEMPLATES = [
    "", "\n", "a\n", "a\n\n", "a\r\nb\rc\n", "  {% if t %}\n  x\n  {% endif %}\n y", "{% if t %}a{% endif %}\nb", "a {%- if t -%} b {%- endif -%} c",
    "a\n  {%- if t %}\n b{% endif %}", "a\n  {%+ if t %}b{% endif %}", "{% if t +%}\nb{% endif %}", "  {{ s }}  \n", "  {{- s -}}  \n x", "a {# c #} b", "a\n  {# c #}\nb",
    "a\n  {#- c -#}\n b", "{#+ c +#}\nb", "{# a {{ b }} {% c %} #}x", "{% raw %}{{ x }}{% endraw %}", "a\n  {% raw %}\n {{ x }} {% y %}\n  {% endraw %}\nb", "a {%- raw -%} {{ b }} {%- endraw -%} c",
    "{{ '{{' }}{{ '}}' }}{{ '%}' }}", "{{ {'a': {'b': 1}}['a'] }}", "{{ {'a':{'b':1}}}}", "{ % { {", "{{ s }", "{{ s", "{% if t %}", "{% endif %}", "{% else %}", "{% nosuch %}", "{{ }}", "{{ 1 + }}",
    "{{ 'a }}", "{# a", "{% raw %} a", "{{ a..b }}", "{{ (1 }}", "{{ 1) }}", "{{ [1, }}", "{{ @ }}", "{% set %}", "{% set x %}", "{% for x %}{% endfor %}", "{% for in l %}{% endfor %}",
    "{% if %}{% endif %}", "{% break %}", "{% set 1 = 2 %}", "{% set true = 2 %}", "{{ 'a' is is }}", "{% if t %}{% endfor %}",
    "{% set a = 1 %}{{ a }}", "{% set a, b = 1, 2 %}{{ b }}{{ a }}", "{% set (a, b) = (1, 2) %}{{ a }}", "{% set a, b = l %}", "{% set a, b, c = l %}{{ c }}", "{% set a = 1, 2 %}{{ a }}", "{% set a %}x{{ i }}{% endset %}[{{ a }}]",
    "{% set a | upper %}x{{ s }}{% endset %}{{ a }}", "{% set a | replace('l', 'L') | length %}{{ s }}{% endset %}{{ a }}", "{% set a %}{% set b = 1 %}{% endset %}{{ b }}",
    "{% set ns = namespace(x=1, y='a') %}{% for v in l %}{% set ns.x = ns.x + v %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}", "{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}", "{% set s.x = 1 %}", "{% set zz.x = 1 %}", "{% set d.x = 1 %}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set ns = namespace(d) %}{{ ns.b }}", "{% set x = 1 %}{% for v in l %}{% set x = x + v %}{{ x }},{% endfor %}{{ x }}", "{% for v in l %}{% set y = v %}{% endfor %}{{ y }}", "{% if t %}{% set y = 5 %}{% endif %}{{ y }}",
    "{% for v in l %}{{ v }}{% if not loop.last %}, {% endif %}{% endfor %}", "{% for v in el %}x{% else %}none{% endfor %}", "{% for v in nope %}x{% else %}none{% endfor %}", "{% for v in n %}{% endfor %}", "{% for v in i %}{% endfor %}",
    "{% for c in u %}[{{ c }}]{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for k, v in d.items() %}{% endfor %}{{ k }}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in {'a': 1}|items %}{{ k }}={{ v }};{% endfor %}",
    "{% for a, b in l %}{% endfor %}", "{% for a, b in ['xy', 'zw'] %}{{ b }}{{ a }}{% endfor %}", "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for v in l if v > 1 %}{{ loop.index }}:{{ v }} {{ loop.length }}{{ loop.last }};{% else %}z{% endfor %}",
    "{% for v in l if v > 10 %}x{% else %}none{% endfor %}", "{% for v in 1, 2, 3 %}{{ v }}{% endfor %}", "{% for v in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "{% for v in l %}{{ loop.previtem }}<{{ v }}>{{ loop.nextitem }};{% endfor %}", "{% for v in l %}{{ loop.previtem.x }}{% endfor %}", "{% for v in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for v in [1, 1, 2, 2, 1] %}{{ loop.changed(v) }}{% endfor %}", "{% for v in l %}{{ loop.cycle() }}{% endfor %}",
    "{% for v in l %}{{ loop.zzz }}{{ loop.zzz is defined }}{% endfor %}", "{% for v in l %}{% for w in l %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}", "{% for v in l|map('string') %}{{ loop.length }}{{ v }}{% endfor %}", "{% for v in l|reverse %}{{ v }}{{ loop.revindex }}{% endfor %}",
    "{% for v in range(10) %}{% if v == 3 %}{% break %}{% endif %}{% if v == 1 %}{% continue %}{% endif %}{{ v }}{% endfor %}", "{% for v in l %}{% continue %}{% else %}E{% endfor %}", "{% for v in l %}{% break %}{% else %}E{% endfor %}", "{% for v in l %}{{ v }}{% break %}{% else %}E{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for v in range(5) if ns.n < 2 %}{% set ns.n = ns.n + 1 %}{{ v }}{% endfor %}", "{% for v in l recursive %}{{ v }}{% endfor %}", "{% for v in l %}{% set loop = 1 %}{% endfor %}", "{% for loop in l %}{% endfor %}",
    "{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c=3) }} {{ m(1, 2, 3) }} {{ m(b=1, a=0) }} {{ m() }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(z=2) }}", "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m({'x': 1}) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 'a', k=2) }}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro m() %}{{ zz }}{% endmacro %}{% set zz = 1 %}{{ m() }}",
    "{% macro m() %}{% set zz = 2 %}{{ zz }}{% endmacro %}{% set zz = 1 %}{{ m() }}{{ zz }}", "{% macro m() %}  x\n{% endmacro %}[{{ m()|trim }}]", "{% macro m(a) -%}\n  {{ a }}\n{%- endmacro %}{{ m.name }}{{ m('q') }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m() %}{% break %}{% endmacro %}",
    "{{ [1, 2]|map('string')|join }}{% set f = l|map('string') %}{{ f|list }}{{ f|list }}", "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter trim | replace('a', 'b') %} aa {% endfilter %}", "{% with a = 1, b = i %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with %}{% set q9 = 1 %}{% endwith %}{{ q9 }}",
    "{% generation %}a{{ s }}{% set z9 = 1 %}{% endgeneration %}{{ z9 }}", "{% if l %}a{% elif t %}b{% else %}c{% endif %}{% if e %}a{% elif el %}b{% elif t %}B{% else %}c{% endif %}{% if n %}a{% endif %}", "{% if 1, %}x{% endif %}", "{{ 1 if t else 2, 3 }}",
    "{% for m in people %}{% if loop.first and m.name == 'Bo' %}{% set who = m.name %}{% else %}{% set who = 'other' %}{% endif %}{{ who }}{% endfor %}", "{% set m = people[0] %}{{ m.name }}{% set people = people[1:] %}{{ people|length }}", "{{ range(100001)|length }}", "{{ range(100000)|length }}",
    "{% set x = [] %}{% for v in l %}{% set _ = x.append(v) %}{% endfor %}{{ x }}", "{% set x = d.update({'a': 1}) %}", "{{ s.upper }}" if False else "{{ s.upper is defined }}", "{% set a = namespace(l=[]) %}{% for v in l %}{% set a.l = a.l + [v * 2] %}{% endfor %}{{ a.l }}",
    "{{- s -}}", "{{-s-}}", "{{ -1 }}{{ - 1 }}{{+1}}", "{%- set a = 1 -%}\n\n{{ a }}", "{{ s }}\n{{ s }}\n", "{% if t %}\n\n\nx{% endif %}\n\n", "\n\n  {% if t %}x{% endif %}  \n", "x  {% if t %}y{% endif %}", "\t{% if t %}y{% endif %}\n\t{% if t %}z{% endif %}",
    "{%- for m in people %}\n    {{- m.name }}\n    {%- if m.age > 26 %}\n        {{- ' old' }}\n    {%- endif %}\n{%- endfor %}\n", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% block a %}b{% endblock %}", "{% autoescape true %}{% endautoescape %}",
    "{% call m() %}{% endcall %}", "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}a{{ s }}{% endcall %}", "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller(a) }}{% endmacro %}{% call(x, y='d') m(1) %}<{{ x }}{{ y }}>{% endcall %}",
    "{% macro m() %}{{ caller }}{% endmacro %}{{ m() }}|", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}{% call m() %}{% endcall %}", "{% macro m() %}x{% endmacro %}{% call m() %}{% endcall %}",
    "{% macro m() %}{{ kwargs }}{% endmacro %}{{ m(a=1) }}", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m(caller=3) }}", "{% macro c() %}C{% endmacro %}{% macro m() %}{{ caller() }}{% endmacro %}{{ m(caller=c) }}", "{% macro m(caller=none) %}{{ caller() if caller else 'no' }}{% endmacro %}{{ m() }}{% call m() %}y{% endcall %}",
    "{% macro m(n) %}{{ n }}{{ caller() }}{% if n > 0 %}{% call m(n - 1) %}({{ n }}){% endcall %}{% endif %}{% endmacro %}{% call m(2) %}-{% endcall %}", "{% macro m() %}{% call k() %}{{ caller }}|{% endcall %}{% endmacro %}{% macro k() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller() }}{% set z8 = 1 %}{% endmacro %}{% set q = 5 %}{% call m() %}{{ q }}{{ z8 }}{% set q = 6 %}{% endcall %}{{ q }}", "{% macro m() %}{{ caller()|upper }}{% endmacro %}{% for v in words %}{% call m() %}{{ loop.index }}{{ v }}{% endcall %}{% endfor %}",
    "{% macro m() %}{{ caller.name }}{% endmacro %}{% call m() %}{% endcall %}", "{% call s %}{% endcall %}", "{% call range(3) %}x{% endcall %}", "{% call nope() %}x{% endcall %}", "{% macro m() %}{{ caller(1) }}{% endmacro %}{% call m() %}x{% endcall %}", "{% for v in l %}{% call m() %}{% break %}{% endcall %}{% endfor %}",
    "{% macro m() -%}\n a\n{%- endmacro %}{% call m() %}\n{% endcall %}\n b", "{% call m()|upper %}{% endcall %}", "{% macro o(f) %}{% set n = namespace(f=caller()) %}{{ n.f|trim }}{% endmacro %}\n{% call o(1) %}\n  x\n{% endcall %}",
]

# What transformers renders and this interpreter refuses, always by name.
REFUSED = {
    "{{ self }}", "{{ s.zfill(3) }}", "{{ s.encode() }}", "{% for v in l recursive %}{{ v }}{% endfor %}",
    "{% block a %}b{% endblock %}", "{% autoescape true %}{% endautoescape %}",
    "{{ ('<a>'|safe) * 2 }}", "{{ ('%s'|safe) % '<' }}", "{{ ('%s'|safe)|format('<') }}", "{{ ('a<'|safe).replace('a', '<') }}", "{{ ('<'|safe).split() }}",
    "{{ '{:>3}'.format(1) }}", "{{ '{a.b}'.format(a=1) }}", "{{ '{!r}'.format(1) }}", "{{ '{0[1]}'.format(l) }}", "{{ '{:{}}'.format(1, 2) }}", "{{ 0x10 }}", "{{ '\\N{DASH}' }}", "{{ l[0, 1] }}", "{{ '%*d' % (3, 4) }}",
    "{{ 10 ** 30 }}", "{{ s.find('o', 5) }}", "{{ 'ff'|int(0, 16) }}", "{{ 123|round(-2) }}", "{{ cycler('a').next() }}",
    "{{ l|groupby('a') }}", "{{ l|slice(2)|list }}", "{{ l|batch(2)|list }}", "{{ s|truncate(3) }}", "{{ s|wordcount }}",
}
