#!/usr/bin/env bash
# Reads the built binaries: each must have every protection that cmake/Hardening.cmake asks for.
. "$(dirname "$0")/lib.sh"

expect 0 cmake -N -L "$(dirname "$bin")"
case $out in
*KDS_SANITIZE:STRING=[a-z]* | *CMAKE_BUILD_TYPE:STRING=Debug*) skip "a build with sanitizers or without optimisation" ;;
esac

problems() { # FILE KIND (executable, library): prints what is missing, one a line
	local headers dynamic symbols function
	headers=$(readelf -hlW "$1")
	dynamic=$(readelf -dW "$1")
	symbols=$(readelf -W --dyn-syms "$1")
	[[ $headers =~ Type:[[:space:]]+DYN ]] || echo "is not position independent (PIE)"
	if [ "$2" = executable ]; then
		[[ $dynamic =~ Flags:.*PIE ]] || echo "has no PIE flag"
	fi
	[[ $headers =~ GNU_RELRO ]] || echo "has no RELRO segment"
	[[ $dynamic =~ BIND_NOW|Flags:.*NOW ]] || echo "does not bind all symbols at start (BIND_NOW)"
	[[ $headers =~ GNU_STACK[^$'\n']*RW[[:space:]] ]] || echo "has an executable stack"
	[[ ! $headers =~ LOAD[^$'\n']*RWE ]] || echo "has a segment that is writable and executable"
	[[ $symbols =~ __stack_chk_fail ]] || echo "has no stack protector"
	[[ $symbols =~ __(mem|str|sn|vsn|f|vf|read|p)[a-z]*_chk ]] || echo "has no fortified call (_FORTIFY_SOURCE)"
	if [ "$(uname -m)" = x86_64 ]; then
		# Debian's own start files carry no IBT and SHSTK note, so the linker drops ours: look at a function of ours.
		[ "$2" = executable ] && function=main || function=kds_version
		[[ $(objdump -d --disassemble=$function "$1") =~ endbr64 ]] || echo "has no control-flow protection (endbr64)"
	fi
}

check() { # FILE KIND
	local found
	[ -e "$1" ] || fail "$1 was not built"
	found=$(problems "$1" "$2")
	[ -z "$found" ] || fail "$(basename "$1") $found"
	say "$(basename "$1") is hardened"
}

for name in kds-serial kds-ca kds-keydist kds-cli; do
	check "$bin/$name" executable
done
[ ! -e "$bin/kds-agent" ] || check "$bin/kds-agent" executable
check "$(dirname "$bin")/lib/libkds.so" library

# The gate bites: a program built without a protection is found out.
printf '#include <stdio.h>\n#include <string.h>\nint main(int n, char **v) { char b[64]; memset(b, n, (size_t)n); return printf("%%s%%s", b, v[0]) < 0; }\n' \
	>"$work/plain.c"
good=(-O2 -fPIE -pie -fstack-protector-all -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
good+=('-Wl,-z,relro' '-Wl,-z,now' '-Wl,-z,noexecstack')
[ "$(uname -m)" != x86_64 ] || good+=(-fcf-protection=full)
compile() { gcc "${good[@]}" "$@" -o "$work/plain" "$work/plain.c"; }
compile
assert_eq "a program with every protection" "" "$(problems "$work/plain" executable)"
while IFS='|' read -r flags expected; do
	# shellcheck disable=SC2086 # several flags
	compile $flags
	assert_match "a program built with $flags" "$expected" "$(problems "$work/plain" executable)"
done <<'END'
-no-pie -fno-pie|PIE
-Wl,-z,norelro|RELRO
-Wl,-z,lazy|BIND_NOW
-Wl,-z,execstack|executable stack
-fno-stack-protector|stack protector
-U_FORTIFY_SOURCE|fortified
END
if [ "$(uname -m)" = x86_64 ]; then
	compile -fcf-protection=none
	assert_match "a program without CET" "control-flow" "$(problems "$work/plain" executable)"
fi

# Installed files must not look for libraries where they were built.
expect 0 env DESTDIR="$work/install" cmake --install "$(dirname "$bin")"
n=0
while IFS= read -r file; do
	[ "$(head -c 4 "$file" | tail -c 3)" = ELF ] || continue
	assert_no_match "the run path of the installed $(basename "$file")" "R(UN)?PATH" "$(readelf -dW "$file")"
	n=$((n + 1))
done < <(find "$work/install" -type f \( -perm -u+x -o -name '*.so*' \))
[ $n -ge 5 ] || fail "only $n programs and libraries were installed"
