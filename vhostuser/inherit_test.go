package vhostuser_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// A session whose rings were in use before it has a driver that goes on. The
// device is told once, and before the first of the rings that start together.
func TestInherit(t *testing.T) {
	for _, c := range []struct {
		name  string
		used  [2]uint16 // of rx and tx, in memory
		bases [2]uint32
		want  string
	}{
		{"fresh", [2]uint16{0, 0}, [2]uint32{0, 0}, "start 0, start 1"},
		{"both used", [2]uint16{3, 5}, [2]uint32{3, 5}, "inherit, start 0, start 1"},
		{"only rx used", [2]uint16{3, 0}, [2]uint32{3, 0}, "inherit, start 0, start 1"},
		{"only tx used", [2]uint16{0, 5}, [2]uint32{0, 5}, "inherit, start 0, start 1"},
		{"the used index tells", [2]uint16{3, 0}, [2]uint32{0, 0}, "inherit, start 0, start 1"},
		{"the base tells", [2]uint16{0, 0}, [2]uint32{0, 7}, "inherit, start 0, start 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRaw(t)
			r.ResetDevice() // features come again, last
			r.events()
			for i := range r.rings {
				r.rings[i].SetUsedIdx(c.used[i])
				r.rings[i].SetAvailIdx(6) // the base of 7 is none that a driver left open
				r.setup(i, c.bases[i])
			}
			r.enable(true, rx, tx)
			r.expect()
			r.SetFeatures(offered | vhostuser.FeatureProtocolFeatures)
			r.expect(script("negotiated, " + c.want)...)

			r.enable(false, rx, tx)
			r.enable(true, rx, tx)
			r.expect("stop 0", "stop 1", "start 0", "start 1")
		})
	}
}

// Where one ring is set up after the other, the first one that was in use tells.
func TestInheritOfASerialStart(t *testing.T) {
	r := newRaw(t)
	r.events()
	r.rings[tx].SetUsedIdx(5)
	r.rings[tx].SetAvailIdx(5)
	r.setup(rx, 0)
	r.enable(true, rx)
	r.expect("start 0")
	r.setup(tx, 5)
	r.enable(true, tx)
	r.expect("inherit", "start 1")
}

// A ring that stopped and goes on in the same session was in use, but not before it.
func TestNothingIsInheritedFromTheSessionItself(t *testing.T) {
	r := newRaw(t)
	r.events()
	r.setup(tx, 0)
	r.enable(true, tx)
	r.use(tx, 3)
	base := r.GetVringBase(tx)
	r.setup(tx, base)
	r.expect("start 1", "stop 1", "start 1")
}
