package vhostusertest

import "github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"

// Peer replays one frontend. Each method sends what that frontend sends at that
// point in the life of a guest and checks what it checks.
type Peer interface {
	// Init is what follows the connection.
	Init()
	// Start is what follows when the guest's driver is ready: one that has just
	// begun, with rings that are new.
	Start()
	// Stop is a pause of the virtual machine, or its suspension.
	Stop()
	// Resume ends it: the driver goes on where it was.
	Resume()
	// Reset is the guest's reboot, or the end of its driver. Start may follow.
	Reset()
	// Shutdown is the end of the virtual machine, and of the connection.
	Shutdown()
}

// Peers are all the frontends that can be replayed.
var Peers = []struct {
	Name string
	New  func(*Frontend, *Guest) Peer
}{
	{"QEMU 7.2", QEMU72},
	{"QEMU 10", QEMU10},
	{"UML", UML},
	{"cloud-hypervisor", func(f *Frontend, g *Guest) Peer { return NewCloudHypervisor(f, g) }},
	{"OpenVMM", OpenVMM},
	{"crosvm", Crosvm},
}

// driver returns what the guest's driver takes of the offered features.
func (g *Guest) driver(offered uint64) uint64 { return g.options.Features & offered }

// protocol acknowledges the protocol features that are offered and in mask.
func (f *Frontend) protocol(mask vhostuser.ProtocolFeatures) vhostuser.ProtocolFeatures {
	f.tb.Helper()
	taken := f.GetProtocolFeatures() & mask
	f.SetProtocolFeatures(taken)
	return taken
}

// withAck calls f with NEED_REPLY set and leaves it as it was.
func (f *Frontend) withAck(send func()) {
	f.tb.Helper()
	defer func(before bool) { f.NeedReply = before }(f.NeedReply)
	f.NeedReply = true
	send()
}
