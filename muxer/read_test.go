package muxer_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// control calls f with the socket's descriptor.
func (s *sock) control(f func(fd int) error) {
	s.t.Helper()
	raw, err := s.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil || failed != nil {
		s.t.Fatal(err, failed)
	}
}

// What ends a read early, though more is there behind it, ends nothing else.
func TestReadsThatEndEarly(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(s *sock){
		"descriptors with a byte": func(s *sock) {
			s.control(func(fd int) error { return unix.Sendmsg(fd, []byte("d"), unix.UnixRights(int(os.Stderr.Fd())), nil, 0) })
		},
		"a byte out of band": func(s *sock) {
			s.control(func(fd int) error { return unix.Send(fd, []byte("o"), unix.MSG_OOB) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{})
			p, g := v.listen(52), v.guest()
			c, s := v.dial(g, p, 52)
			v.do(func() { // between two turns of the loop: one event tells of all of it
				s.send([]byte("before"))
				between(s)
				s.send([]byte("behind"))
			})
			want := "beforebehind"
			if name == "descriptors with a byte" {
				want = "beforedbehind"
			}
			wantGuest(t, c, []byte(want))
		})
	}
}
