package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// bare carries through one socket pair from a program to another: nothing that moves
// bytes into a host program's socket, or out of it, can do better but by moving more
// at once than the sender does.
type bare struct{ reader, writer *program }

func newBare(tb testing.TB, chunk int, check bool) carrier {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal("socketpair:", err)
	}
	for _, fd := range pair {
		tb.Cleanup(func() { unix.Close(fd) })
	}
	return &bare{writer: newWriter(tb, pair[:1], chunk, check), reader: startReader(tb, pair[1:], check)}
}

func (b *bare) start() { resume([]*program{b.writer}) }

func (b *bare) moved() load {
	return load{bytes: b.reader.bytes.Load(), processor: b.reader.processor() + b.writer.processor()}
}

func (b *bare) stop(tb testing.TB) {
	tb.Helper()
	pause([]*program{b.writer})
	arrived(tb, b.writer.bytes.Load(), b.reader.bytes.Load)
	mustHaveRead(tb, []*program{b.reader})
}
