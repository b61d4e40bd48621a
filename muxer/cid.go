package muxer

import (
	"math"
	"slices"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// ValidGuestCID reports whether a guest can have the address cid: some are
// reserved, and the upper 32 bits are zero (virtio v1.4 §5.10.4).
func ValidGuestCID(cid uint64) bool { return cid > csm.HostCID && cid < math.MaxUint32 }

// guestCID is the guest's address. A driver reads it when it begins and when it
// handles a TRANSPORT_RESET, so a new one cannot become valid at any time.
type guestCID struct {
	configured uint64   // what a driver reads
	active     uint64   // what packets carry
	former     []uint64 // active until a TRANSPORT_RESET that the driver has yet to handle, or what it sent before
	left       uint64   // what a driver that goes on goes by: that of the last session, or of a state; 0 if unknown
	told       uint64   // what this session's frontend heard last; 0 if it never asked
}

// belongs reports whether the guest sends packets with the source cid.
func (c *guestCID) belongs(cid uint64) bool {
	return cid == c.active || slices.Contains(c.former, cid)
}

// begun returns what a driver that begins anew has read. QEMU answers it from a
// copy, which it may not have renewed; frontends with an event ring pass on what
// the driver asks.
func (c *guestCID) begun(eventRing bool) uint64 {
	if c.told != 0 && !eventRing {
		return c.told
	}
	return c.configured
}

// dropFormer notes that the tx ring is empty: once the driver has handled its
// TRANSPORT_RESET, nothing under a former CID is to come any more.
func (m *Muxer) dropFormer() {
	if !m.lost.holds {
		m.cid.former = nil
	}
}

// SetGuestCID changes the address that a driver reads. Without a driver it is
// valid at once. With one and an event ring, its connections end, and the address
// becomes valid with the TRANSPORT_RESET that tells the driver to read it; without
// the ring, when a driver begins anew.
func (m *Muxer) SetGuestCID(cid uint64) {
	if cid == m.cid.configured {
		return
	}
	m.cid.configured = cid
	m.log.WithField("guest_cid", cid).Info("guest CID is configured")
	if m.met {
		m.tellCID()
	} else {
		m.useCID(cid)
	}
	m.showCID()
}

// tellCID has the driver read its address again, if it is not the active one and
// there is a way to tell.
func (m *Muxer) tellCID() {
	if m.cid.configured != m.cid.active && m.events.there {
		m.endForReset()
		m.tellLosses()
	}
}

// useCID makes cid the valid address.
func (m *Muxer) useCID(cid uint64) {
	m.cid.former = nil
	if cid != m.cid.active {
		m.cid.active = cid
		if log, ok := m.sites.cid.Entry(m.log, m.loop.Now()); ok {
			log.WithField("guest_cid", cid).Info("guest CID is active")
		}
	}
	m.showCID()
}

// showCID keeps the gauges.
func (m *Muxer) showCID() {
	m.stats.GuestCID.Set(int64(m.cid.active))
	pending := m.cid.configured
	if pending == m.cid.active {
		pending = 0
	}
	m.stats.PendingCID.Set(int64(pending))
}
