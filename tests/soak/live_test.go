package soak

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// rounds is how often a guest does all that there is to do; more guests are worth more.
const rounds = 1

// endings are how a guest ends, in turn, under load.
var endings = []func(*testing.T, lab){killed, poweredOff, rebooted}

// live is the life of the n-th guest of a daemon.
func live(t *testing.T, d *vm.Daemon, n int) {
	l := lab{d, vm.BootUML(t, d)}
	for range rounds {
		l.round(t, byte(n))
	}
	gone := l.load(t)
	endings[n%len(endings)](t, l)
	if err := gone(); err != nil {
		t.Fatalf("connections of a guest that has ended: %v", err)
	}
}

func killed(_ *testing.T, l lab) { l.Kill() }

// poweredOff does not ask how the VMM ends: User-Mode Linux that halts under load aborts
// behind its last word now and then.
func poweredOff(t *testing.T, l lab) {
	l.send(t, script.PowerOff)
	l.AwaitExit(t)
}

// rebooted has the guest come back on the same VMM before it ends.
func rebooted(t *testing.T, l lab) {
	l.send(t, script.Reboot)
	l.AwaitBoot(t)
	l.round(t, 0)
	l.Kill()
}

func (l lab) send(t *testing.T, op script.Op) {
	t.Helper()
	if err := l.Send(script.Request{Op: op}); err != nil {
		t.Fatal(err)
	}
}

// load puts the guest under traffic without end both ways, and returns when bytes flow.
// Some of it stands still, for nobody reads it. The returned function waits until all
// of its connections have ended.
func (l lab) load(t *testing.T) (gone func() error) {
	t.Helper()
	const connections = 3
	from, to := newPort(), newPort()
	l.serve(t, script.Request{Port: from, Steps: []script.Step{{Do: script.Flood, Seed: floodSeed}}})
	l.serve(t, script.Request{Port: to, Steps: []script.Step{{Do: script.Drain}}})
	var waits []func() error
	for range connections {
		down, up, unread := newFlood(l.mustDial(t, from)), l.mustDial(t, to), newFlood(l.mustDial(t, from))
		if err := down.read(mib); err != nil {
			t.Fatalf("the load did not begin: %v", err)
		}
		waits = append(waits, later(down.toEnd), later(func() error { return floodToEnd(up) }), unread.toEnd)
	}
	return func() (err error) {
		for _, wait := range waits {
			err = errors.Join(err, wait())
		}
		return err
	}
}

// floodSeed determines what guests send without end.
const floodSeed = 1

// flood is what comes of that.
type flood struct {
	from io.Reader
	sum  hash.Hash // of what was read
	n    int64
}

func newFlood(c io.Reader) *flood {
	f := &flood{sum: sha256.New()}
	f.from = io.TeeReader(c, f.sum)
	return f
}

func (f *flood) read(n int64) error {
	got, err := io.CopyN(io.Discard, f.from, n)
	f.n += got
	return err
}

// toEnd reads to the end, which is ECONNRESET where bytes that were written were not
// read. Wherever it ends, what came must be right.
func (f *flood) toEnd() error {
	err := f.read(math.MaxInt64)
	if err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
		err = nil
	}
	if hex.EncodeToString(f.sum.Sum(nil)) != script.Sum(floodSeed, f.n) {
		err = errors.Join(err, fmt.Errorf("the first %d bytes of what the guest sent are wrong", f.n))
	}
	return err
}

func floodToEnd(c script.Conn) error {
	if r := script.Run(c, []script.Step{{Do: script.Flood, Seed: 2}}, nil); r.FloodErrno == 0 {
		return fmt.Errorf("after %d bytes it did not end within %v", r.Sent, limit)
	}
	return nil
}

// later runs f in the background, whose result the returned function waits for.
func later(f func() error) (wait func() error) {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return func() error { return <-result }
}

// together runs all of fs at the same time and returns their errors.
func together(fs ...func() error) (err error) {
	var waits []func() error
	for _, f := range fs {
		waits = append(waits, later(f))
	}
	for _, wait := range waits {
		err = errors.Join(err, wait())
	}
	return err
}

func deadline() time.Time { return time.Now().Add(limit) }
