package vhostuser_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// raw is a session with rx and tx whose messages a test orders itself.
type raw struct {
	*backend
	*vhostusertest.Frontend
	memory  *virtqueuetest.Memory
	options virtqueuetest.Options
	rings   []*virtqueuetest.Ring
}

func newRaw(t testing.TB) *raw {
	t.Helper()
	return newRawWith(t, virtqueuetest.Options{Size: 64, EventIdx: true})
}

func newRawWith(t testing.TB, o virtqueuetest.Options) *raw {
	t.Helper()
	var options []func(*vhostuser.Config)
	if o.Packed {
		options = append(options, packed)
	}
	r := &raw{backend: newBackend(t, options...), memory: virtqueuetest.NewMemory(t), options: o}
	r.Frontend = r.dial()
	features := r.GetFeatures()
	r.SetProtocolFeatures(r.GetProtocolFeatures())
	r.NeedReply = true
	r.SetFeatures(features)
	r.SetMemTable(r.memory.Regions(), r.memory.Fds(), 0)
	for range 2 {
		r.rings = append(r.rings, virtqueuetest.NewRing(t, r.memory, o))
	}
	return r
}

// setup sends everything about ring i but its enablement.
func (r *raw) setup(i int, base uint32) {
	r.t.Helper()
	c := r.rings[i].Config()
	index := uint32(i)
	r.SetVringNum(index, uint32(c.Size))
	r.SetVringBase(index, base)
	r.SetVringAddr(vhostuser.VringAddr{
		Index: index,
		Desc:  virtqueuetest.UserAddr(c.Desc), Avail: virtqueuetest.UserAddr(c.Avail), Used: virtqueuetest.UserAddr(c.Used),
	})
	r.SetVringKick(index, r.rings[i].KickFd())
}

func (r *raw) enable(on bool, rings ...uint32) {
	r.t.Helper()
	for _, i := range rings {
		r.SetVringEnable(i, on)
	}
}

// use moves n chains over ring i.
func (r *raw) use(i, n int) {
	r.t.Helper()
	for range n {
		if i == tx {
			r.rings[tx].Add(r.memory.Out([]byte("x")))
			r.rings[tx].Publish()
			r.rings[tx].ForceKick()
			r.waitFor("chain taken", func() bool { return r.rings[tx].UsedIdx() == r.rings[tx].AvailIdx() })
		} else {
			r.rings[rx].Add(r.memory.In(8))
			r.rings[rx].Publish()
			r.do(func() { r.send("x") })
		}
		r.rings[i].Used()
	}
}

// fresh replaces ring i by that of a driver which begins, at the same place.
func (r *raw) fresh(i int) {
	r.t.Helper()
	c := r.rings[i].Config()
	clear(r.memory.Bytes(c.Desc, 16*uint64(c.Size)))
	o := r.options
	o.Desc, o.Avail, o.Used = c.Desc, c.Avail, c.Used
	r.rings[i] = virtqueuetest.NewRing(r.t, r.memory, o)
}

func TestResumeOrReset(t *testing.T) {
	for _, c := range []struct {
		name string
		// used chains before the stop, by ring
		rx, tx int
		// what happens between the stop and the start
		between func(r *raw)
		// bases given at the start; nil: what GET_VRING_BASE said
		bases []uint32
		want  string
	}{
		{name: "unused and unchanged", want: "start 0, start 1"},
		{name: "used and unchanged", rx: 3, tx: 5, want: "start 0, start 1"},
		{name: "both begin anew", rx: 3, tx: 5,
			between: func(r *raw) { r.fresh(rx); r.fresh(tx) }, bases: []uint32{0, 0},
			want: "reset, start 0, start 1"},
		// A guest that never received anything has an rx ring that looks as it did.
		{name: "only tx shows it", tx: 5,
			between: func(r *raw) { r.fresh(rx); r.fresh(tx) }, bases: []uint32{0, 0},
			want: "reset, start 0, start 1"},
		{name: "only rx shows it", rx: 3,
			between: func(r *raw) { r.fresh(rx); r.fresh(tx) }, bases: []uint32{0, 0},
			want: "reset, start 0, start 1"},
		{name: "base differs", rx: 3, tx: 5, bases: []uint32{3, 4},
			want: "reset, start 0, start 1"},
		{name: "used index differs", rx: 3, tx: 5,
			between: func(r *raw) { r.rings[tx].SetUsedIdx(0) },
			want:    "reset, start 0, start 1"},
		{name: "base 0 and used index 0 after no use", between: func(r *raw) { r.fresh(tx) }, bases: []uint32{0, 0},
			want: "start 0, start 1"},
		{name: "rings move", rx: 3, tx: 5,
			between: func(r *raw) {
				for i := range r.rings {
					r.rings[i] = virtqueuetest.NewRing(r.t, r.memory, virtqueuetest.Options{Size: 64, EventIdx: true})
				}
			}, bases: []uint32{0, 0},
			want: "reset, start 0, start 1"},
		{name: "unused rings move",
			between: func(r *raw) {
				r.rings[tx] = virtqueuetest.NewRing(r.t, r.memory, virtqueuetest.Options{Size: 64, EventIdx: true})
			},
			want: "reset, start 0, start 1"},
		{name: "reset device", rx: 3, tx: 5,
			between: func(r *raw) {
				r.ResetDevice()
				r.expect("reset")
				r.SetFeatures(offered | vhostuser.FeatureProtocolFeatures)
				r.expect("negotiated")
				r.fresh(rx)
				r.fresh(tx)
			}, bases: []uint32{0, 0},
			want: "start 0, start 1"},
		{name: "other features", rx: 3, tx: 5,
			between: func(r *raw) {
				r.SetFeatures(vhostuser.FeatureVersion1 | vhostuser.FeatureProtocolFeatures)
				r.expect("reset", "negotiated")
				r.fresh(rx)
				r.fresh(tx)
			}, bases: []uint32{0, 0},
			want: "start 0, start 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRaw(t)
			r.setup(rx, 0)
			r.setup(tx, 0)
			r.enable(true, rx, tx)
			r.use(rx, c.rx)
			r.use(tx, c.tx)
			r.enable(false, rx, tx)
			bases := []uint32{r.GetVringBase(rx), r.GetVringBase(tx)}
			if bases[rx] != uint32(c.rx) || bases[tx] != uint32(c.tx) {
				t.Errorf("bases %v", bases)
			}
			r.events()
			if c.bases != nil {
				bases = c.bases
			}
			if c.between != nil {
				c.between(r)
			}
			r.setup(rx, bases[rx])
			r.setup(tx, bases[tx])
			r.expect()
			r.enable(true, rx, tx)
			r.expect(script(c.want)...)
			r.enable(false, rx, tx)
			r.enable(true, rx, tx)
			r.expect(script("stop 0, stop 1, start 0, start 1")...)
		})
	}
}

// crosvm sets up and enables one ring after the other. When the first one starts
// the second has not been described yet, but its memory tells.
func TestResetBeforeTheFirstRingOfASerialStart(t *testing.T) {
	r := newRaw(t)
	r.setup(rx, 0)
	r.setup(tx, 0)
	r.enable(true, rx, tx)
	r.use(tx, 5)
	r.enable(false, rx, tx)
	r.GetVringBase(rx)
	r.GetVringBase(tx)
	r.events()
	r.fresh(rx)
	r.fresh(tx)
	r.setup(rx, 0)
	r.enable(true, rx)
	r.expect("reset", "start 0")
	r.setup(tx, 0)
	r.enable(true, tx)
	r.expect("start 1")
}

// Where even that does not tell, because the rings are elsewhere, the reset comes
// with the first sign of it, once.
func TestLateReset(t *testing.T) {
	r := newRaw(t)
	r.setup(rx, 0)
	r.setup(tx, 0)
	r.enable(true, rx, tx)
	r.use(tx, 5)
	r.enable(false, rx, tx)
	r.GetVringBase(rx)
	r.GetVringBase(tx)
	r.events()
	r.rings[tx] = virtqueuetest.NewRing(t, r.memory, virtqueuetest.Options{Size: 64, EventIdx: true})
	r.setup(rx, 0)
	r.enable(true, rx)
	r.expect("start 0")
	r.setup(tx, 0)
	r.enable(true, tx)
	r.expect("reset", "start 1")
}

// One ring alone is switched off and on, or loses its descriptor: nothing ends.
func TestOneRingPauses(t *testing.T) {
	r := newRaw(t)
	r.setup(rx, 0)
	r.setup(tx, 0)
	r.enable(true, rx, tx)
	r.use(rx, 2)
	r.use(tx, 3)
	r.events()
	r.enable(false, tx)
	r.use(rx, 2)
	r.enable(true, tx)
	r.expect("stop 1", "start 1")
	base := r.GetVringBase(tx)
	r.SetVringBase(tx, base)
	r.SetVringKick(tx, r.rings[tx].KickFd())
	r.expect("stop 1", "start 1")
	r.use(tx, 3)
}

// UML's power management switches rings off and on without a word more. A chain
// that was published in between is served although nobody kicks for it.
func TestPauseKeepsTheQueue(t *testing.T) {
	r := newRaw(t)
	r.setup(tx, 0)
	r.enable(true, tx)
	r.use(tx, 3)
	r.taken()
	for range 3 {
		r.enable(false, tx)
		r.rings[tx].Add(r.memory.Out([]byte("in between")))
		r.rings[tx].Publish()
		r.enable(true, tx)
		if got := r.taken(); len(got) != 1 || got[0] != "in between" {
			t.Fatalf("taken %q", got)
		}
		r.rings[tx].Used()
	}
	if got := r.GetVringBase(tx); got != 6 {
		t.Errorf("base %d", got)
	}
}

// A kick that came while the ring was off is there when it is on again.
func TestKickWhileOff(t *testing.T) {
	r := newRaw(t)
	r.setup(rx, 0)
	r.enable(true, rx)
	r.enable(false, rx)
	before := r.kicked(rx)
	r.rings[rx].ForceKick()
	r.Barrier()
	if n := r.kicked(rx); n != before {
		t.Error("a ring that is off was kicked")
	}
	r.enable(true, rx)
	r.waitFor("kick", func() bool { return r.kicked(rx) == before+1 })
}

// Ring memory that is misaligned on our side cannot have a queue; the frontend is
// told by VRING_ERR, and everything else goes on.
func TestRingThatCannotStart(t *testing.T) {
	r := newRaw(t)
	errors := eventfd(t)
	fd := memfd(t, 1<<16)
	region := r.memory.Regions()[0]
	odd := region
	odd.GuestAddr, odd.UserAddr, odd.Offset, odd.Size = 1<<40, 1<<41, 8, 1<<15
	r.AddMemReg(odd, fd)
	r.SetVringErr(tx, errors)
	r.SetVringNum(tx, 64)
	r.SetVringAddr(vhostuser.VringAddr{Index: tx, Desc: 1 << 41, Avail: 1<<41 + 0x2000, Used: 1<<41 + 0x4000})
	r.SetVringKick(tx, eventfd(t))
	r.events()
	r.enable(true, tx)
	r.expect()
	if n := count(t, errors); n != 1 {
		t.Errorf("VRING_ERR was signalled %d times", n)
	}
	if n := r.stats.Queues[tx].Errors[vhostuser.FaultLayout].Load(); n != 1 {
		t.Errorf("counted %d times", n)
	}
	r.Barrier()
	r.setup(tx, 0)
	r.expect("start 1")
	r.use(tx, 1)
}
