#!/usr/bin/env python3
"""Writes `fixtures/templates/expressions.json`: what transformers renders of templates, each a few expressions of one kind.

    pip install -r xtask/parity/requirements.txt
    python xtask/parity/templates.py fixtures

`expected` is the text, or null where rendering fails; `error` then says how.
"""

import json
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

CONTEXT = {
    "x": {"a": [1, 2.0, None], "b": "é"},
    "n": {"float": 1.5, "small": 1e-7, "big": 1e16, "int": 12345678901234567, "neg": -3, "huge": 18446744073709551615},
    "items": [
        {"name": "a", "n": 1, "kind": "X", "sub": {"k": 1}},
        {"name": "b", "n": 2, "kind": "y", "sub": {"k": 2}},
        {"name": "c", "n": 0, "kind": "x", "sub": {"k": 3}},
    ],
    "tree": [{"v": 1, "c": [{"v": 2, "c": []}, {"v": 3, "c": [{"v": 4, "c": []}]}]}],
}

TEMPLATES = [
    '{{ x }}',
    '{{ 1e-07 }}|{{ 1e16 }}|{{ 1.0 }}|{{ 123456789012345680.0 }}|{{ 0.0001 }}|{{ 0.00001 }}|{{ 1e22 }}|{{ -0.0 }}|{{ 1.5e300*1e10 }}',
    '{{ n.float }} {{ n.small }} {{ n.big }} {{ n.int }} {{ n.neg }} {{ n.huge }}',
    r"""{{ true }} {{ none }} {{ [true, none, 'a'] }}""",
    r"""{{ [1, 2.5, 'a', "it's", 'say "hi"', 'both \' and "', 'tab\t', 'nl\n', 'é😀', '\u200b', '\x00', 'back\\slash'] }}""",
    r"""{{ {'a': 1, 'b': [1, 2], 'c': {'d': none}} }}""",
    '{{ (1,) }} {{ (1, 2) }} {{ () }} {{ 1, 2 }}',
    r"""{{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ 'a b  c d'.split(None, 2) }} {{ 'a b  c  '.split(maxsplit=1) }}""",
    r"""{{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b  c '.rsplit(None, 1) }} {{ ' a b '.rsplit() }} {{ 'abc'.rsplit('x') }}""",
    r"""{{ 'xxaxx'.strip('x') }} {{ '  a '.lstrip() }}| {{ ' a '.rstrip() }}| {{ 'abcab'.strip('ab') }} {{ 'abcab'.lstrip('ab') }} {{ 'abcab'.rstrip('ab') }}""",
    r"""{{ 'abc'.startswith('a') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith(('x','bc')) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith('b', 0, 2) }}""",
    r"""{{ 'abcabc'.find('c') }} {{ 'abcabc'.rfind('c') }} {{ 'abc'.find('x') }} {{ 'abcabc'.find('c', 3) }} {{ 'éabc'.find('c') }} {{ 'abc'.index('c') }} {{ 'abc'.find('') }} {{ 'abc'.find('', 5) }}""",
    r"""{{ 'abc'.index('x') }}""",
    r"""{{ 'aaaa'.replace('a', 'b') }} {{ 'aaaa'.replace('a', 'b', 2) }} {{ 'abc'.replace('', '-') }} {{ 'aaa'.replace('a','b',-1) }} {{ 'aaa'.replace('a','b',0) }} {{ 'aaaa'|replace('a','b',2) }}""",
    r"""{{ "they're bill's friends".title() }} {{ "they're bill's-friends (a)"|title }} {{ 'hELLO wORLD'|capitalize }} {{ 'hELLO'.capitalize() }} {{ 'ß'.upper() }} {{ 'aBc'.swapcase() }}""",
    r"""{{ ','.join(['a', 'b']) }} {{ ','.join('abc') }} {{ ''.join([]) }}""",
    r"""{{ ','.join([1]) }}""",
    r"""{{ '12'.isdigit() }} {{ ''.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '½'.isnumeric() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' \t'.isspace() }} {{ 'aB'.islower() }} {{ 'AB1'.isupper() }} {{ 'Ab Cd'.istitle() }} {{ 'a_1'.isidentifier() }} {{ 'a\n'.isprintable() }} {{ 'é'.isascii() }}""",
    r"""{{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ 'ab'.ljust(5) }}| {{ 'ab'.rjust(5, '*') }} {{ 'ab'.center(5, '-') }} {{ 'abc'.center(6,'-') }} {{ 'a'.center(4, '*') }}""",
    r"""{{ 'a\nb\r\nc\x0bd'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ ''.splitlines() }}""",
    r"""{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'ab'.partition('-') }} {{ 'ab'.rpartition('-') }}""",
    r"""{{ 'aXbX'.count('X') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ 'a\tb'.expandtabs(4) }} {{ 'AbC'.casefold() }}""",
    r"""{{ '%s' % 'x' }} {{ '%s and %s' % ('a', 1.5) }} {{ '%d' % 3.7 }} {{ '%5d|%-5d|%05d|%+d' % (42, 42, 42, 42) }} {{ '%.2f' % 3.14159 }} {{ '%e' % 12345.678 }} {{ '%g' % 0.00001234 }} {{ '%x %X %o %#x' % (255, 255, 8, 255) }} {{ '%%' % () }} {{ '%r' % 'a' }} {{ '%(a)s-%(b)d' % {'a': 1, 'b': 2} }} {{ '%c%c' % ('x', 65) }} {{ '%s' % [1] }} {{ '%s' % none }} {{ '%10s|%-10s|%.2s' % ('abc', 'abc', 'abc') }} {{ '%*d' % (5, 42) }}""",
    r"""{{ '%s' % (1, 2) }}""",
    r"""{{ '%d' % 'a' }}""",
    r"""{{ '%s %s' % 'a' }}""",
    r"""{{ '{} {}'.format(1, 'a') }} {{ '{1} {0}'.format(1, 2) }} {{ '{a} {b!r}'.format(a=1, b='x') }} {{ '{:.2f}'.format(3.14159) }} {{ '{:>10}|{:<10}|{:^10}|{:*^9}'.format('a','b','c','d') }} {{ '{:,}'.format(1234567) }} {{ '{:,.2f}'.format(1234567.891) }} {{ '{:05d}'.format(42) }} {{ '{:+d}'.format(5) }} {{ '{:x} {:#x} {:b} {:o} {:e}'.format(255, 255, 5, 8, 1234.5) }} {{ '{:%}'.format(0.256) }} {{ '{:g}'.format(1e-10) }} {{ '{{}}'.format() }} {{ '{0[a]} {0[b][0]}'.format({'a': 1, 'b': [2]}) }} {{ '{:{w}}'.format('a', w=5) }}| {{ '{:.3}'.format('abcdef') }} {{ '{:.3}'.format(3.14159) }} {{ '{:_}'.format(1234567) }} {{ '{}'.format([1, 'a']) }} {{ '{:5}|{:5}|{:<5}|'.format(1, 1.5, true) }} {{ '{:010.2f}'.format(-3.14159) }} {{ '{:.0f} {:.0f} {:.0f}'.format(0.5, 1.5, 2.5) }} {{ '{:c}'.format(65) }} {{ '{:.1e}'.format(0.0) }} {{ '{!s:>5}'.format(1) }} {{ '{:09,}'.format(12345) }} {{ '{:.3}'.format(1e10) }} {{ '{:.3}'.format(100.0) }} {{ '{:.2}'.format(1.0) }}""",
    r"""{{ '{'.format() }}""",
    r"""{{ '{} {}'.format(1) }}""",
    r"""{{ 'abcdef'[1:4] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[::2] }} {{ 'abcdef'[-3:] }} {{ 'abcdef'[:-1] }} {{ 'abcdef'[4:1:-1] }} {{ 'äöü'[1:] }} {{ 'abc'[-1] }} {{ 'abc'[5] }}| {{ 'abc'[10:] }}| {{ 'abc'[-10:2] }}""",
    '{{ [1,2,3,4,5][1:3] }} {{ [1,2,3][::-1] }} {{ [1,2,3,4][::2] }} {{ (1,2,3)[1:] }} {{ [1,2,3][-1] }} {{ [1,2,3][3] }}| {{ [1,2,3][5:] }} {{ [1,2,3][-2::-1] }} {{ range(10)[2:5]|list }} {{ [1,2,3,4][3:0:-2] }} {{ [1,2][none:1] }}',
    r"""{{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ 4 / 2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1 + 1.0 }} {{ 0.1 + 0.2 }} {{ 10 - 3 - 2 }} {{ 2 * 3 + 4 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ true + 1 }} {{ 1e3|int }} {{ 3 * 'ab' }} {{ 'ab' * 2 }} {{ [1] * 3 }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }} {{ 'ab' * -1 }}|""",
    '{{ 1 / 0 }}',
    r"""{{ 'a' + 1 }}""",
    r"""{{ 1 ~ 'a' ~ 2.0 ~ none ~ true ~ [1] ~ 1e-7 }}""",
    r"""{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ [1,2] < [1,3] }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ true == 1 }} {{ none == false }} {{ [1] == (1,) }} {{ {'a':1,'b':2} == {'b':2,'a':1} }} {{ 1 != 2 }} {{ undefinedthing == none }}""",
    r"""{{ 'a' < 1 }}""",
    r"""{{ 'a' in 'abc' }} {{ 'a' in ['a'] }} {{ 'a' in {'a': 1} }} {{ 1 in [1.0] }} {{ 'x' not in 'abc' }} {{ 1 in range(3) }} {{ 'a' in missing }} {{ not 'a' in 'abc' }}""",
    r"""{{ 1 in 'abc' }}""",
    r"""{{ 'a' in 5 }}""",
    r"""{{ 'a' if true else 'b' }} {{ 'a' if false }}| {{ ('a' if false) is defined }} {{ 1 if 0 else 2 if 0 else 3 }}""",
    r"""{{ '42'|int }} {{ '4.7'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ '0x1f'|int(base=16) }} {{ '101'|int(0, 2) }} {{ 3.99|int }} {{ -3.99|int }} {{ none|int }} {{ true|int }} {{ ' 12 '|int }} {{ '1_000'|int }} {{ '1e3'|int }} {{ [1]|int(7) }} {{ ''|int }}""",
    '{{ missing|int }}',
    r"""{{ '4.7'|float }} {{ 'x'|float }} {{ 'x'|float(1.5) }} {{ 3|float }} {{ '1e-7'|float }} {{ ' 1.5 '|float }} {{ 'inf'|float }} {{ 'nan'|float }} {{ none|float }}""",
    r"""{{ 42.55|round(1) }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 42|round }} {{ 42.1|round(0, 'ceil') }} {{ 42.9|round(method='floor') }} {{ 1234.5|round(-2) }} {{ 1.005|round(2)|string }} {{ 5|round(2) }} {{ 42.55|round(1, 'floor') }} {{ 1234|round(-2) }}""",
    r"""{{ 5|string ~ 1.0|string }} {{ [1,'a']|string|length }} {{ none|string }}""",
    r"""{{ 'abc'|list }} {{ {'a':1}|list }} {{ range(3)|list }} {{ (1,2)|list }} {{ missing|list }}""",
    r"""{{ items|map(attribute='name')|list }} {{ items|map(attribute='name')|join(', ') }} {{ ['a','b']|map('upper')|list }} {{ items|map(attribute='zz', default='d')|list }} {{ [[1,2],[3,4]]|map(attribute=0)|list }} {{ ['a-b']|map('replace', '-', '+')|list }} {{ items|map(attribute='sub.k')|list }} {{ [1,2]|map('string')|list }}""",
    r"""{{ items|selectattr('n')|map(attribute='name')|list }} {{ items|selectattr('name', 'equalto', 'b')|list|length }} {{ items|rejectattr('n')|map(attribute='name')|list }} {{ items|selectattr('n', '>', 1)|map(attribute='name')|list }} {{ [1,2,3,4]|select('odd')|list }} {{ [1,2,3]|reject('odd')|list }} {{ [0,1,'',none]|select|list }} {{ items|selectattr('name', 'in', ['a','c'])|list|length }} {{ items|selectattr('zz', 'defined')|list }} {{ items|selectattr('zz','undefined')|list|length }}""",
    r"""{% for g, l in items|groupby('kind') %}{{ g }}:{{ l|map(attribute='name')|join(',') }};{% endfor %} {% for g in items|groupby('kind') %}{{ g.grouper }}{{ g.list|length }}{% endfor %} {{ (items|groupby('kind'))[0] }}""",
    r"""{{ {'b':1,'A':2,'c':0}|dictsort }} {{ {'b':1,'A':2}|dictsort(true) }} {{ {'b':1,'A':2}|dictsort(by='value') }} {{ {'b':1,'a':2}|dictsort(reverse=true) }}""",
    r"""{{ {'a':1}|items|list }} {% for k, v in {'a':1,'b':2}.items() %}{{ k }}={{ v }};{% endfor %} {{ {'a':1}.items() }} {{ {'a':1}.keys() }} {{ {'a':1}.values()|list }} {{ missing|items|list }}""",
    r"""{{ missing|default('d') }} {{ ''|default('d') }}| {{ ''|default('d', true) }} {{ none|default('d') }} {{ none|d('d', boolean=true) }} {{ missing.x|default('q') }}""",
    '{{ missing|default }}|',
    r"""{{ 'a\nb\n\nc'|indent }}| {{ 'a\nb'|indent(2, true) }}| {{ 'a\n\nb'|indent(2, blank=true) }}| {{ 'a\nb'|indent('>>') }}| {{ 'a\nb\n'|indent(2) }}|""",
    r"""{{ '  a '|trim }}| {{ 'xax'|trim('x') }}""",
    r"""{{ {'a':[1,2.0,none,true,'é"\n<>&']}|tojson }} {{ {'a':'é😀'}|tojson(ensure_ascii=true) }} {{ {'b':1,'a':[]}|tojson(indent=2) }} {{ {'b':1,'a':2}|tojson(sort_keys=true) }} {{ {'a':[1,2]}|tojson(separators=(',', ':')) }} {{ [1,2]|tojson(indent=4) }} {{ {}|tojson(indent=2) }} {{ [[]]|tojson(indent=2) }} {{ 1e-7|tojson }} {{ {1:2,none:3,true:4,1.5:5}|tojson }} {{ 'a'|tojson }} {{ (1,2)|tojson }} {{ {'a':1}|tojson(indent='\t') }} {{ [1,[2]]|tojson(indent=0) }} {{ {'a':1}|tojson(true) }} {{ {'a': 1, 'b': 2}|tojson(indent=2, separators=(', ', ': ')) }}""",
    '{{ missing|tojson }}',
    r"""{{ {'a':1}.keys()|tojson }}""",
    '{{ range(3)|tojson }}',
    r"""{{ [3,1,2]|sort }} {{ ['b','A','c']|sort }} {{ ['b','A']|sort(case_sensitive=true) }} {{ [1,2]|sort(reverse=true) }} {{ items|sort(attribute='n')|map(attribute='name')|list }} {{ items|sort(attribute='kind,n')|map(attribute='name')|list }} {{ 'bca'|sort }} {{ {'b':1,'a':2}|sort }}""",
    r"""{{ [1,'a']|sort }}""",
    r"""{{ [1,2,1,'a','A']|unique|list }} {{ ['a','A']|unique(true)|list }} {{ items|unique(attribute='kind')|map(attribute='name')|list }}""",
    r"""{{ [1,2]|first }} {{ [1,2]|last }} {{ []|first }}| {{ 'abc'|first }} {{ 'abc'|last }} {{ missing|first }}|""",
    r"""{{ 'abc'|length }} {{ 'é😀'|length }} {{ [1]|length }} {{ {'a':1}|count }} {{ missing|length }}""",
    '{{ 5|length }}',
    r"""{{ [1,2,3]|reverse|list }} {{ 'abc'|reverse }}""",
    r"""{% for b in range(7)|batch(3) %}{{ b }}{% endfor %} {% for b in range(7)|batch(3, 'x') %}{{ b }}{% endfor %} {% for b in range(7)|slice(3) %}{{ b }}{% endfor %} {% for b in range(7)|slice(3, 'x') %}{{ b }}{% endfor %} {{ [1,2,3]|batch(2)|list }}""",
    r"""{{ [1,2]|join }} {{ [1,2]|join('-') }} {{ items|join(',', attribute='name') }} {{ 'abc'|join('-') }} {{ [1.0, none]|join(',') }}""",
    r"""{{ [1,2,3]|sum }} {{ items|sum(attribute='n') }} {{ [1.5]|sum(start=1) }} {{ [3,1]|min }} {{ [3,1]|max }} {{ ['b','A']|min }} {{ []|max }}| {{ items|max(attribute='n') }} {{ -3|abs }} {{ -1.5|abs }}""",
    r"""{{ 'a<b>&"\''|e }} {{ 'a'|safe }} {{ 'a b/é?'|urlencode }} {{ 'a b c d e'|truncate(5) }} {{ 'abcdefghijkl'|truncate(6, true) }} {{ 'abc'|truncate(3, true, '', 0) }} {{ 'one two three'|wordcount }} {{ 'a'|center(5) }}|""",
    r"""{{ x is mapping }} {{ [] is sequence }} {{ 'a' is sequence }} {{ 'a' is string }} {{ 1 is number }} {{ true is number }} {{ true is boolean }} {{ 1 is boolean }} {{ none is none }} {{ missing is defined }} {{ missing is undefined }} {{ [] is iterable }} {{ none is iterable }} {{ 1 is iterable }} {{ 1 is integer }} {{ 1.0 is float }} {{ true is integer }} {{ 3 is odd }} {{ 4 is even }} {{ 6 is divisibleby 3 }} {{ 6 is divisibleby(4) }} {{ 1 is sameas 1 }} {{ 'A' is upper }} {{ 'a' is lower }} {{ 1 is eq 1 }} {{ 1 is in [1] }} {{ x is not mapping }} {{ range is callable }} {{ 1 is ge 1 }} {{ true is true }} {{ 1 is true }} {{ 'abc' is not string }} {{ {}.items() is sequence }} {{ {}.items() is iterable }} {{ (1,) is sequence }} {{ missing is none }} {{ x is string or x is mapping }}""",
    r"""{% set ns = namespace(a=1, b=[]) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{% for i in range(3) %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.b }} {{ ns.zz is defined }} {{ namespace(x=1) }} {{ namespace({'a': 2}).a }} {{ ns['a'] }}""",
    r"""{% macro m(a, b='d', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(a=1, c=3) }}{{ m() }}{{ m(1, c=x.b) }}""",
    '{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, z=4) }}',
    '{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}',
    r"""{% macro m(a) %}<{{ caller('q') }}{{ a }}>{% endmacro %}{% call(z) m(1) %}in{{ z }}{% endcall %}""",
    '{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}x{% endcall %}',
    '{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}',
    '{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}',
    '{% set y = 1 %}{% macro g() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ g() }}',
    r"""{% for i in [1,2,3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}|{{ loop.nextitem }}{{ loop.cycle('a','b') }}{{ loop.changed(i // 2) }};{% endfor %}""",
    '{% for i in [] %}x{% else %}empty{% endfor %} {% for i in missing %}x{% else %}none{% endfor %}',
    r"""{% for i in [1,2,3,4] if i % 2 == 0 %}{{ i }}{{ loop.index }}{% endfor %} {% for k in {'a':1} %}{{ k }}{% endfor %} {% for c in 'ab' %}{{ c }}-{% endfor %} {% for a, (b, c) in [[1,[2,3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}""",
    '{% for n in tree recursive %}{{ n.v }}{% if n.c %}({{ loop(n.c) }}){% endif %}{{ loop.depth }}{% endfor %}',
    '{% set a = 1 %}{% for i in [1,2] %}{% set a = i %}{{ a }}{% endfor %}{{ a }}',
    '{% set a = 1 %}{% if true %}{% set a = 2 %}{% endif %}{{ a }}',
    '{% for i in [1,2,3,4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}',
    '{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set c %}block {{ a }}{% endset %}{{ c|upper }}{% set d | upper %}x{% endset %}{{ d }} {% with q = 5 %}{{ q }}{% endwith %}{{ q is defined }}',
    r"""{% filter upper %}ab{{ 'c' }}{% endfilter %} {% filter replace('a','b')|upper %}aa{% endfilter %}""",
    'a  {%- if true -%}  b  {%- endif -%}  c',
    'v {#- c -#} u',
    '{% raw %}{{ x }}{% endraw %}|{%- raw -%} {% y %} {%- endraw -%} |',
    '{{ x.a.b.c }}',
    '{{ missing.x }}',
    '{{ missing() }}',
    r"""{{ x['zz'] }}|{{ x.zz }}|{{ x.zz is defined }}|{{ x.get('zz') }}|{{ x.get('zz', 1) }}|{{ x.get('a') }}|{{ x['a'][0] }}|{{ x.a.0 }}""",
    '{{ x.zz.y }}',
    '{{ [1].append(2) }}',
    r"""{{ {}.update({'a':1}) }}""",
    r"""{{ {'items': 1}['items'] }} {{ {'name': 'n', 'items': [1]}.name }}""",
    r"""{{ none.x }}|{{ 1.x }}|{{ none['x'] is defined }}""",
    r"""{{ dict(a=1, b=2) }} {{ dict([('a', 1)]) }} {{ dict({'a':1}, b=2) }} {{ {'a':1}.copy() }}""",
    '{{ range(5) }} {{ range(1, 10, 3)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }}',
    '{{ range(1000000) }}',
    r"""{% set c = cycler('a','b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }} {% set j = joiner(',') %}{{ j() }}{{ j() }}""",
    '{{ [1,2,3].index(2) }} {{ [1,1].count(1) }} {{ (1,2).index(2) }}',
    r"""{{ raise_exception('no ' ~ 1) }}""",
    r"""{{ 'a' 'b' }} {{ "a\"b" }} {{ 'a\'b' }} {{ '\u00e9' }} {{ '\x41' }} {{ 'a\qb' }} {{ '\101' }} {{ 0x1f }} {{ 0b101 }} {{ 1_000 }} {{ 1.5e3 }} {{ 0o17 }}""",
    r"""{{ not true }} {{ not 1 == 2 }} {{ true and false or true }} {{ 1 and 2 }} {{ 0 or 'x' }} {{ none or [] }} {{ not [] }}""",
    r"""{{ -1|abs }} {{ +1 }} {{ - -1 }} {{ 1 - -1 }} {{ (1 + 2) * 3 }} {{ 5 - 3|abs }} {{ 'a'|upper ~ 'b' }} {{ 'a' ~ 'b'|upper }} {{ (1 + 2) ~ 3 }} {{ 2 * 3 ~ 4 }}""",
    r"""{{ x.b|upper|lower|length }} {{ 'A'|attr('lower') is callable }} {{ x|attr('zz') is defined }}""",
    r"""{{ '%s-%s'|format('a', 1) }} {{ '%(a)s'|format(a=5) }}""",
    r"""{{ items[0].name if items else 'none' }} {{ items|length > 2 }} {{ (items|first).name }} {{ items[-1]['name'] }} {{ items[:2]|map(attribute='name')|join('/') }}""",
    r"""{%- set s = items|selectattr('n') %}{{ s|list|length }}{{ s|list|length }}""",
    r"""{% set s = [1,2,3]|map('string') %}{{ s|first }}{{ s|list }}""",
    r"""{{ [1,2,3]|map('string') is sequence }} {{ ([1]|map('string'))|length }}""",
    '{{ 1 is divisibleby 0 }}',
    r"""{{ 'abc' is in 'abcd' }} {{ 'abc'|string is string }} {{ 3.0 == 3 }} {{ 10 // 3.0 }} {{ 1e400 }} {{ -5 // 2.0 }} {{ 5 % 2.5 }}""",
    r"""{{ {'a': 1, 'a': 2} }} {{ {1: 'x', 1.0: 'y', true: 'z'} }} {{ {(1,2): 3} }} {{ {'a':1}['b']|default('n') }}""",
    '{{ {[1]: 2} }}',
    '{% if x.a and x.a[0] == 1 %}yes{% elif false %}no{% else %}other{% endif %}',
    '{% for m in [1,2] %}{% for n in [3,4] %}{{ loop.index }}{{ m }}{{ n }} {% endfor %}{{ loop.index }}{% endfor %}',
    '{% generation %}a{% set zz = 1 %}{% endgeneration %}{{ zz is defined }}',
    r"""{% block b %}x{% endblock %} {% print 'p' %}""",
    '{{ items|tojson(indent=2)|indent(2) }}',
    r"""{{ 'a b'|replace(' ', '') }} {{ 5|replace('5', '6') }} {{ 'aXbX'.replace('X', '', 1) }}""",
    r"""{{ '\n'.join(['a','b'])|indent(2, first=True) }}""",
    r"""{{ 'hello'[1:3] ~ 'hello'[-2:] }} {{ 'a,b'.split(',')[0] }} {{ 'a<think>b</think>c'.split('</think>')[-1].lstrip('\n') }} {{ 'x'.split('</think>')|length }}""",
    r"""{{ items|map(attribute='n')|sum }} {{ items|map(attribute='n')|select('gt', 1)|list }} {{ items|rejectattr('name','eq','a')|map(attribute='name')|list }}""",
    r"""{{ items|selectattr('name', 'eq', 'a')|first }} {{ (items|selectattr('name', 'eq', 'zz')|first) is defined }} {{ items|list|last }}""",
    '{{ 1 if x is defined and x is mapping else 0 }} {{ loop is defined }} {{ (x.a or [])|length }} {{ x.a is iterable and x.a is not string }} {{ x.b is string }}',
    r"""{{ '{"a": 1}' }} {{ "{'a'}" }} {{ '{% x %}' }} {{ '}}' }}""",
    r"""{{ 3|string|int + 1 }} {{ '3' ~ 4 }} {{ ('3' ~ 4)|int * 2 }} {{ 10|float / 4 }} {{ 1e-5 }} {{ 123456789.123456789 }} {{ 1/3 }} {{ 2/3 }} {{ 1e15 }} {{ 1e17 }} {{ 5e-324 }} {{ 1.7976931348623157e308 }}""",
    '  {% if true %}\n  x\n  {% endif %}\ny\n',
    "{{ 'a' }}\n  {%+ if true %}z{% endif +%}\nw\n",
    'a\n  {# c #}\n b',
    'a  {#- c -#}  b\n\n',
    '{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}\n',
    '  {{ 1 }}\n',
    '{% if true %}\r\nx\r\n{% endif %}\r\n',
    '{% set x = 1 -%}\n\n  a',
    'a {%- set x = 1 %}\n b',
    'x{% if true %} {% endif %}y',
    '{% if true %}  {% if true %}a{% endif %}{% endif %}',
    '{{ 1 }}  {% if true %}b{% endif %}',
    '\n\n{% if true %}\n\n{% endif %}\n\n',
    '{% raw %}\n {{ a }} \n{% endraw %}\nb',
    "{{ '\\n' }}a\n\n",
    '{%- for i in [1,2] -%}\n {{- i -}} \n{%- endfor -%}\n',
    r"""{{ none|selectattr('a')|list }} {{ none|map('upper')|list }} {{ 0|select|list }} {{ none|rejectattr('a')|join }}""",
    r"""{{ '<'|safe + '<' }} {{ '<' + '<'|safe }} {{ '<'|e + '>' }} {{ 'a'|safe + '<' + '&' ~ '<' }} {{ '<'|safe ~ '<' }} {{ ('<'|safe + '>')|length }} {{ '<'|safe + '<'|safe }} {{ '<'|safe|upper }}""",
    '{{ [none, none]|sort }}',
    r"""{{ ([1]|map('string'))[1:] }}""",
    '{{ tree.0.c.1.c.0.v }}',
    '{{ [missing, missing]|sort }}',
]


def rendered(template: str) -> dict:
    try:
        return {"template": template, "expected": _compile_jinja_template(template).render(**CONTEXT)}
    except Exception as error:  # whatever Python raises, the template is refused
        return {"template": template, "expected": None, "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    out = Path(sys.argv[1]) / "templates"
    out.mkdir(parents=True, exist_ok=True)
    cases = [rendered(template) for template in TEMPLATES]
    fixture = {"context": CONTEXT, "cases": cases}
    (out / "expressions.json").write_text(json.dumps(fixture, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
