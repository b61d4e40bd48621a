package muxer_test

import (
	"slices"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
)

// observed is a muxer whose turns are observed.
type observed struct {
	*muxer.Muxer
	turn func()
}

func (o observed) Work() bool {
	more := o.Muxer.Work()
	o.turn()
	return more
}

// held calls f while the loop stands still: nothing that f does is seen before its end.
func (v *vm) held(f func()) {
	v.t.Helper()
	stands, goOn := make(chan struct{}), make(chan struct{})
	v.loop.Do(func() { close(stands); <-goOn })
	defer close(goOn)
	<-stands
	f()
}

// Of host programs that connect at once, one is accepted, and then twice as many in each
// turn on end; each with the line that it has sent by then.
func TestHostProgramsAreAcceptedEverMoreAtOnce(t *testing.T) {
	t.Parallel()
	const clients = 60 // fewer than receive buffers
	v := newVM(t, options{})
	connecting := &v.stats.Connections[muxer.PhaseConnecting][muxer.HostInitiated]
	for range 2 {
		var after []int64 // turns with new ones, how many there were
		v.do(func() {})   // turns without any
		v.do(func() {})
		v.held(func() {
			for range clients {
				v.client("CONNECT 52\n")
			}
			v.loop.SetWorker(observed{v.m, func() {
				if n := connecting.Load(); n > 0 && !slices.Contains(after, n) {
					after = append(after, n)
				}
				if n := v.stats.Clients.Load(); n > 0 {
					t.Errorf("of %d the line was not taken", n)
				}
			}})
		})
		v.eventually("all are accepted", func() bool { return connecting.Load() == clients })
		v.do(func() {
			if want := []int64{1, 3, 7, 15, 31, clients}; !slices.Equal(after, want) {
				t.Errorf("accepted after each turn: %d, want %d", after, want)
			}
			v.loop.SetWorker(v.m)
		})
		v.do(v.m.Reset)
		v.idle()
	}
}
