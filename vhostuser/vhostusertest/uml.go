package vhostusertest

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// uml replays virtio_uml of User-Mode Linux. Whatever has no reply of its own
// carries NEED_REPLY, from VHOST_USER_SET_PROTOCOL_FEATURES on; nothing says
// that a driver ended but rings that are switched off.
type uml struct {
	*Frontend
	*Guest
	offered  uint64
	protocol vhostuser.ProtocolFeatures
}

const (
	umlRings    = 3
	umlRingSize = 256
	// umlTable is the size of its SET_MEM_TABLE: two regions, however many are used.
	umlTable = 72
	umlKnown = vhostuser.ProtocolReplyAck | vhostuser.ProtocolBackendReq | vhostuser.ProtocolConfig |
		vhostuser.ProtocolInBandNotifications
)

// UML replays User-Mode Linux.
func UML(f *Frontend, g *Guest) Peer { return &uml{Frontend: f, Guest: g} }

func (u *uml) Init() {
	u.Frontend.tb.Helper()
	u.identity()
	u.SetOwner()
	u.offered = u.GetFeatures()
	u.protocol = u.GetProtocolFeatures() & umlKnown
	u.withAck(func() {
		u.SetProtocolFeatures(u.protocol)
		u.SetBackendReqFd()
	})
}

func (u *uml) Start() {
	u.Frontend.tb.Helper()
	features := u.driver(u.offered)
	u.probe(umlRings, umlRingSize, features)
	u.withAck(func() {
		u.SetFeatures(features | vhostuser.FeatureProtocolFeatures)
		head := len(vhostuser.MemRegions(u.regions).AppendTo(nil))
		u.SetMemTable(u.regions, u.fds, max(umlTable-head, 0))
		inBand := u.protocol&vhostuser.ProtocolInBandNotifications != 0
		if inBand {
			u.inBand = u.Frontend
		}
		for i, r := range u.Rings {
			if !inBand {
				u.call(i)
			}
			u.SetVringNum(uint32(i), uint32(r.Config().Size))
			u.SetVringBase(uint32(i), 0)
			u.SetVringAddr(u.addr(i, ^uint64(0)))
		}
		for i, r := range u.Rings {
			if !inBand {
				u.kick(i, r)
			}
			u.SetVringEnable(uint32(i), true)
		}
	})
	u.GetConfig(0, 8, 0)
}

// call passes one end of a blocking socket pair for the interrupts of ring i.
func (u *uml) call(i int) {
	u.Frontend.tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		u.Frontend.tb.Fatal("socketpair:", err)
	}
	defer unix.Close(pair[1])
	u.Frontend.tb.Cleanup(func() { unix.Close(pair[0]) })
	u.calls[i] = pair[0]
	u.SetVringCall(uint32(i), pair[1])
}

// kick passes the eventfd by which ring i is kicked. It blocks.
func (u *uml) kick(i int, r *virtqueuetest.Ring) {
	u.Frontend.tb.Helper()
	if err := unix.SetNonblock(r.KickFd(), false); err != nil {
		u.Frontend.tb.Fatal("fcntl:", err)
	}
	u.SetVringKick(uint32(i), r.KickFd())
}

func (u *uml) Stop() {
	u.Frontend.tb.Helper()
	u.withAck(func() {
		for i := range u.Rings {
			u.SetVringEnable(uint32(i), false)
		}
	})
}

func (u *uml) Resume() {
	u.Frontend.tb.Helper()
	u.withAck(func() {
		for i := range u.Rings {
			u.SetVringEnable(uint32(i), true)
		}
	})
}

func (u *uml) Reset() {
	u.Frontend.tb.Helper()
	u.withAck(func() {
		for i := range slices.Backward(u.Rings) {
			u.SetVringEnable(uint32(i), false)
		}
	})
	u.GetFeatures() // when it is answered the rings' pages are freed
}

func (u *uml) Shutdown() {
	u.Frontend.tb.Helper()
	u.Reset()
	u.Close()
}
