package tests

import (
	"io"
	"net"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
)

// BenchmarkGuest tells how fast a real guest is with the daemon. What it does itself
// takes most of the time, so there is nothing to reach; a change shows.
func BenchmarkGuest(b *testing.B) {
	l := newLab(b, uml)
	b.Run("ToHost", func(b *testing.B) {
		c := l.dial(b, l.serve(b, script.Step{Do: script.Flood}))
		move(b, c, func(p []byte) error { _, err := io.ReadFull(c, p); return err })
	})
	b.Run("ToGuest", func(b *testing.B) {
		c := l.dial(b, l.serve(b, script.Step{Do: script.Drain}))
		move(b, c, func(p []byte) error { _, err := c.Write(p); return err })
	})
	b.Run("RoundTrip", func(b *testing.B) {
		c := l.dial(b, l.serve(b, script.Step{Do: script.Echo}))
		p := make([]byte, 1)
		for b.Loop() {
			if _, err := c.Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// move times f, which moves the bytes it is given over c.
func move(b *testing.B, c net.Conn, f func(p []byte) error) {
	b.Helper()
	p := make([]byte, 64*kib)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if err := f(p); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
}
