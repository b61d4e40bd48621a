package muxer_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// A host socket that was full is made to hold more, as long as there is room for
// that, and the room of one that has gone is another's.
func TestFullSocketsAreWidened(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{Config: muxer.Config{MaxBuffered: 512 << 10}}) // room for one
	p, g := v.listen(52), v.guest()
	// taken opens a connection and returns it and how many bytes its socket takes.
	taken := func() (*muxertest.Conn, int) {
		c, s := v.dial(g, p, 52)
		data := v.guestFills(c)
		n := len(data) - int(v.stats.Buffered.Load())
		s.want(data)
		v.eventually("nothing buffered", func() bool { return v.stats.Buffered.Load() == 0 })
		return c, n
	}
	first, wide := taken()
	_, narrow := taken()
	if wide < narrow*3/2 {
		t.Errorf("the first socket took %d bytes, the second %d", wide, narrow)
	}
	first.Close()
	if err := first.WaitOver(); err != muxertest.ErrReset {
		t.Fatal(err)
	}
	if _, again := taken(); again < narrow*3/2 {
		t.Errorf("the third socket took %d bytes, the second %d", again, narrow)
	}
}
