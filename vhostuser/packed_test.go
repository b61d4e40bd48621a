package vhostuser_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

const (
	packedFeatures = offered | vhostuser.FeatureRingPacked | vhostuser.FeatureProtocolFeatures
	packedFirst    = 0x80008000 // where a packed ring begins
	packedSize     = 6
)

// newPacked returns a session with packed rings of six slots.
func newPacked(t *testing.T) *raw {
	t.Helper()
	r := newRawWith(t, virtqueuetest.Options{Size: packedSize, Packed: true, EventIdx: true})
	r.events()
	return r
}

func TestPackedResumeOrReset(t *testing.T) {
	const (
		one  = packedFirst + 1<<16 + 1
		goes = "start 0, start 1"
		anew = "reset, start 0, start 1"
	)
	for _, c := range []struct {
		name   string
		rx, tx int // used chains before the stop
		asks   bool
		want   [2]uint32 // what VHOST_USER_GET_VRING_BASE says, where it is asked
		// What happens between the stop and the start, which begins at these bases.
		between func(r *raw)
		bases   [2]uint32
		events  string
	}{
		{name: "goes on", rx: 1, tx: 1, asks: true, want: [2]uint32{one, one},
			bases: [2]uint32{one, one}, events: goes},
		{name: "unused and unchanged", asks: true, want: [2]uint32{packedFirst, packedFirst},
			bases: [2]uint32{packedFirst, packedFirst}, events: goes},
		{name: "begins anew", rx: 1, tx: 1, asks: true, want: [2]uint32{one, one},
			between: begin, bases: [2]uint32{packedFirst, packedFirst}, events: anew},
		{name: "only tx shows it", tx: 1, asks: true, want: [2]uint32{packedFirst, one},
			between: begin, bases: [2]uint32{packedFirst, packedFirst}, events: anew},
		// A lap ends where both halves of the base are 0.
		{name: "goes on after a lap", rx: packedSize, tx: packedSize, asks: true,
			bases: [2]uint32{0, 0}, events: goes},
		{name: "begins anew after a lap", rx: packedSize, tx: packedSize, asks: true,
			between: begin, bases: [2]uint32{packedFirst, packedFirst}, events: anew},
		// UML never asks, and says 0 of each ring that begins.
		{name: "UML begins anew", rx: 1, tx: 1,
			between: begin, bases: [2]uint32{0, 0}, events: anew},
		{name: "UML begins anew after a lap", rx: packedSize, tx: packedSize,
			between: begin, bases: [2]uint32{0, 0}, events: anew},
		{name: "UML begins anew after two laps", rx: 2 * packedSize, tx: 2 * packedSize,
			between: begin, bases: [2]uint32{0, 0}, events: anew},
		{name: "RESET_DEVICE after a lap", rx: packedSize, tx: packedSize, asks: true,
			between: func(r *raw) {
				r.ResetDevice()
				r.SetFeatures(packedFeatures)
				r.expect("reset", "negotiated")
				begin(r)
			}, bases: [2]uint32{0, 0}, events: goes},
		{name: "rings move", rx: 1, tx: 1, asks: true, want: [2]uint32{one, one},
			between: func(r *raw) {
				for i := range r.rings {
					r.rings[i] = virtqueuetest.NewRing(r.t, r.memory, r.options)
				}
			}, bases: [2]uint32{packedFirst, packedFirst}, events: anew},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newPacked(t)
			r.setup(rx, packedFirst)
			r.setup(tx, 0) // means the same
			r.enable(true, rx, tx)
			r.use(rx, c.rx)
			r.use(tx, c.tx)
			r.enable(false, rx, tx)
			if c.asks {
				for range 2 {
					if got := [2]uint32{r.GetVringBase(rx), r.GetVringBase(tx)}; got != c.want {
						t.Errorf("bases %#x, want %#x", got, c.want)
					}
				}
			}
			r.events()
			if c.between != nil {
				c.between(r)
			}
			r.setup(rx, c.bases[rx])
			r.setup(tx, c.bases[tx])
			r.enable(true, rx, tx)
			r.expect(script(c.events)...)
			// The ring works where it is, over the end of the lap.
			r.use(rx, packedSize+1)
			r.use(tx, packedSize+1)
			r.enable(false, rx, tx)
			r.enable(true, rx, tx)
			r.expect(script("stop 0, stop 1, start 0, start 1")...)
			r.use(tx, packedSize+1)
		})
	}
}

// begin replaces both rings by those of a driver which begins, at the same places.
func begin(r *raw) {
	r.fresh(rx)
	r.fresh(tx)
}

// A ring that broke at the end of a lap begins again there.
func TestBrokenPackedRing(t *testing.T) {
	r := newPacked(t)
	r.setup(tx, packedFirst)
	r.enable(true, tx)
	r.use(tx, packedSize)
	bad := virtqueuetest.PackedDesc{Flags: virtqueuetest.Indirect, ID: 0} // a table of no length
	r.rings[tx].PostSlots(bad)
	r.rings[tx].ForceKick()
	r.waitFor("ring broken", func() bool { return r.stats.Queues[tx].Errors[vhostuser.FaultIndirect].Load() == 1 })
	r.events()
	r.rings[tx].SetSlot(0, virtqueuetest.PackedDesc{Flags: virtqueuetest.Avail | virtqueuetest.Used}) // takes it back
	r.SetVringKick(tx, r.rings[tx].KickFd())
	r.expect("stop 1", "start 1")
	if n := r.stats.Queues[tx].Errors[vhostuser.FaultIndirect].Load(); n != 1 {
		t.Errorf("broken %d times", n)
	}
	if got := r.GetVringBase(tx); got != 0 {
		t.Errorf("base 0x%x", got)
	}
}

// A packed ring that was in use before the session, by its base.
func TestInheritPacked(t *testing.T) {
	for _, c := range []struct {
		base uint32
		want string
	}{
		{0, "start 1"},
		{packedFirst, "start 1"},
		{packedFirst + 1<<16 + 1, "inherit, start 1"},
		{packedFirst + 5<<16 + 5, "inherit, start 1"},
	} {
		r := newPacked(t)
		r.setup(tx, c.base)
		r.enable(true, tx)
		r.expect(script(c.want)...)
	}
}

// What a packed ring may have and a split one may not, and the other way round.
func TestPackedRingParameters(t *testing.T) {
	for _, c := range []struct {
		name    string
		request vhostuser.Request
		payload []byte
		packed  bool // accepted by packed rings
		split   bool
	}{
		{"size 3", vhostuser.MsgSetVringNum, vhostusertest.State(0, 3), true, false},
		{"size 32767", vhostuser.MsgSetVringNum, vhostusertest.State(0, 32767), true, false},
		{"size 32768", vhostuser.MsgSetVringNum, vhostusertest.State(0, 32768), true, true},
		{"size 32769", vhostuser.MsgSetVringNum, vhostusertest.State(0, 32769), false, false},
		{"size 0", vhostuser.MsgSetVringNum, vhostusertest.State(0, 0), false, false},
		{"base of 32 bits", vhostuser.MsgSetVringBase, vhostusertest.State(0, packedFirst), true, false},
		{"avail+2", vhostuser.MsgSetVringAddr, at(0, 0x10002, 0x20000), false, true},
		{"areas at the end", vhostuser.MsgSetVringAddr, at(0, end-8, end-4), true, false},
		{"used beyond the end", vhostuser.MsgSetVringAddr, at(0, end-4, end), false, false},
		{"descriptors at the end", vhostuser.MsgSetVringAddr, at(end-16*64, 0x10000, 0x20000), true, true},
		{"descriptors over the end", vhostuser.MsgSetVringAddr, at(end-16*63, 0x10000, 0x20000), false, false},
	} {
		for _, packed := range []bool{false, true} {
			r := newRawWith(t, virtqueuetest.Options{Packed: packed})
			r.SetVringNum(0, 64)
			want := c.split
			if packed {
				want = c.packed
			}
			if got := r.Ack(c.request, c.payload) == 0; got != want {
				t.Errorf("%s, packed=%v: accepted: %v", c.name, packed, got)
			}
		}
	}
}

const end = uint64(16 << 20) // of virtqueuetest.DefaultExtent

// at returns a VHOST_USER_SET_VRING_ADDR with places counted from the start of memory.
func at(desc, avail, used uint64) []byte {
	base := virtqueuetest.UserAddr(virtqueuetest.DefaultExtent.GuestAddr)
	return vhostuser.VringAddr{Desc: base + desc, Avail: base + avail, Used: base + used}.AppendTo(nil)
}

// The layout may become known only after the rings: what does not fit it shows
// when they are to start, and is told by VRING_ERR.
func TestFeaturesAfterRings(t *testing.T) {
	for _, c := range []struct {
		name     string
		features uint64
		base     uint32
		want     string
		broken   uint64
	}{
		{"packed", packedFeatures, packedFirst, "negotiated, start 1", 0},
		{"packed, base behind the ring", packedFeatures, packedFirst + packedSize, "negotiated", 1},
		{"split of six", packedFeatures &^ vhostuser.FeatureRingPacked, 0, "negotiated", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newPacked(t)
			errors := eventfd(t)
			r.ResetDevice()
			r.SetVringErr(tx, errors)
			r.setup(tx, c.base)
			r.enable(true, tx)
			r.events()
			r.SetFeatures(c.features)
			r.expect(script(c.want)...)
			if n := r.stats.Queues[tx].Errors[vhostuser.FaultLayout].Load(); n != c.broken || uint64(count(t, errors)) != c.broken {
				t.Errorf("broken %d times", n)
			}
		})
	}
}

// The same driver with the other layout has begun anew.
func TestLayoutChanges(t *testing.T) {
	r := newPacked(t)
	r.setup(tx, packedFirst)
	r.enable(true, tx)
	r.use(tx, 3)
	r.events()
	r.enable(false, tx)
	r.SetFeatures(packedFeatures &^ vhostuser.FeatureRingPacked)
	r.expect("stop 1", "reset", "negotiated")
	r.options = virtqueuetest.Options{Size: 8, EventIdx: true}
	r.rings[tx] = virtqueuetest.NewRing(t, r.memory, r.options)
	r.setup(tx, 0)
	r.enable(true, tx)
	r.expect("start 1")
	r.use(tx, 20)
}

// The 0 that a split ring answered says nothing of a packed one.
func TestLayoutChangesToPacked(t *testing.T) {
	r := newPacked(t)
	r.SetFeatures(packedFeatures &^ vhostuser.FeatureRingPacked)
	packed := r.options
	r.options = virtqueuetest.Options{Size: 8, EventIdx: true}
	r.rings[tx] = virtqueuetest.NewRing(t, r.memory, r.options)
	r.setup(tx, 0)
	r.enable(true, tx)
	r.enable(false, tx)
	if got := r.GetVringBase(tx); got != 0 {
		t.Errorf("base 0x%x", got)
	}
	r.SetFeatures(packedFeatures)
	r.options = packed
	r.rings[tx] = virtqueuetest.NewRing(t, r.memory, r.options)
	r.setup(tx, 0)
	r.enable(true, tx)
	r.use(tx, packedSize+1)
}

// A driver that is not asked to kick does so nevertheless when it comes round to where it
// was asked last. It is no descriptor that is always ready.
func TestKicksOnceInTwoLapsAreADriver(t *testing.T) {
	r := newPacked(t)
	for i := range r.rings {
		r.setup(i, packedFirst)
	}
	r.enable(true, rx, tx)
	r.Barrier()
	ring := r.rings[tx]
	add := func() {
		ring.Add(r.memory.Out([]byte("x")))
		ring.Publish()
	}
	used := func() {
		if _, ok := ring.Used(); !ok {
			t.Fatal("a chain is not used")
		}
	}
	for range 2 * packedSize {
		for range 2*packedSize - 1 {
			add()
			r.do(func() { r.device.serve(tx) })
			used()
		}
		add()
		ring.ForceKick()
		r.waitFor("chain taken", func() bool { return ring.UsedIdx() == ring.AvailIdx() })
		used()
	}
	if r.untended() {
		t.Error("kicks are not heard any more")
	}
}
