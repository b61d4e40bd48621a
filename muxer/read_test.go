package muxer_test

import (
	"os"
	"strings"
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

// What comes with the CONNECT line is not forgotten, though one event tells of both, and
// though looking for the line ends there.
func TestConnectLineAndMoreInOneEvent(t *testing.T) {
	t.Parallel()
	const line = "CONNECT 52\n"
	longest := "CONNECT " + strings.Repeat(" ", 32-len(line)) + "52\n"
	for name, try := range map[string]struct {
		send func(s *sock)
		want string
	}{
		"bytes":            {func(s *sock) { s.send([]byte(line + "bytes")) }, "bytes"},
		"bytes, long line": {func(s *sock) { s.send([]byte(longest + "bytes")) }, "bytes"},
		"bytes, later":     {func(s *sock) { s.send([]byte(line)); s.send([]byte("bytes")) }, "bytes"},
		"end of file":      {func(s *sock) { s.send([]byte(line)); s.CloseWrite() }, ""},
		"bytes behind descriptors": {func(s *sock) {
			s.control(func(fd int) error {
				return unix.Sendmsg(fd, []byte(line), unix.UnixRights(int(os.Stderr.Fd())), nil, 0)
			})
			s.send([]byte("bytes"))
		}, "bytes"},
		"bytes behind one out of band": {func(s *sock) {
			s.send([]byte(line))
			s.control(func(fd int) error { return unix.Send(fd, []byte("o"), unix.MSG_OOB) })
			s.send([]byte("bytes"))
		}, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{})
			l := v.guest().Listen(52)
			s := v.connect()
			v.eventually("it is accepted", func() bool { return v.stats.Clients.Load() == 1 })
			v.held(func() { try.send(s) })
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if wantGuest(t, c, []byte(try.want)); try.want == "" {
				wantGuestEOF(t, c)
			}
		})
	}
}
