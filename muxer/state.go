package muxer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// The device's state is what a driver that goes on needs from us: the address it
// goes by, and the connections it believes in, which cannot go on. All integers
// are little-endian:
//
//	 0  magic        8 bytes, "vu-vsock"
//	 8  version      u32, 1
//	12  length       u32, of the whole state in bytes
//	16  guest_cid    u64, as packets carry it
//	24  features     u64, acknowledged by the driver; for the reader's information
//	32  connections  u32, how many follow
//	36  each         guest port u32, host port u32, type u16
//	    checksum     u32, CRC-32C of all that precedes it
const (
	stateMagic   = "vu-vsock"
	stateVersion = 1

	stateHeader   = 36
	stateConn     = 10
	stateChecksum = 4

	// maxState is the largest state in bytes; connections beyond those that fit
	// learn of their end when the driver next speaks of them.
	maxState      = 1 << 20
	maxStateConns = (maxState - stateHeader - stateChecksum) / stateConn
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SaveState returns the device's state for VHOST_USER_SET_DEVICE_STATE_FD, less
// than 1 MiB. It ends no connection: the driver may go on after it. No queue runs.
func (m *Muxer) SaveState() []byte {
	s := state{cid: m.cid.active, features: m.features, conns: m.believed()}
	if !m.met && m.cid.left != 0 {
		s.cid = m.cid.left
	}
	return s.encode()
}

// LoadState takes what SaveState returned, here or in another process: the driver
// that comes up next goes on from there. The configured CID wins over the saved
// one as soon as the driver can be told. After an error, which says why p cannot
// be used, nothing has changed. No queue runs.
func (m *Muxer) LoadState(p []byte) error {
	s, err := decodeState(p)
	if err != nil {
		return fmt.Errorf("device state: %w", err)
	}
	m.forgetAll()
	m.lost.conns, m.lost.goesOn = s.conns, true
	m.cid.left = s.cid
	if log, ok := m.sites.state.Entry(m.log, m.loop.Now()); ok {
		log.WithFields(logrus.Fields{"guest_cid": s.cid, "features": s.features, "connections": len(s.conns)}).Info("device state is loaded")
	}
	return nil
}

// state is a device's state in host order.
type state struct {
	cid      uint64
	features uint64
	conns    map[key]csm.Type
}

func (s *state) encode() []byte {
	le := binary.LittleEndian
	size := stateHeader + stateConn*len(s.conns) + stateChecksum
	p := append(make([]byte, 0, size), stateMagic...)
	p = le.AppendUint32(p, stateVersion)
	p = le.AppendUint32(p, uint32(size))
	p = le.AppendUint64(p, s.cid)
	p = le.AppendUint64(p, s.features)
	p = le.AppendUint32(p, uint32(len(s.conns)))
	for k, typ := range s.conns {
		p = le.AppendUint32(p, k.guest)
		p = le.AppendUint32(p, k.host)
		p = le.AppendUint16(p, uint16(typ))
	}
	return le.AppendUint32(p, crc32.Checksum(p, castagnoli))
}

// decodeState checks all of p before it believes any of it.
func decodeState(p []byte) (s state, err error) {
	le := binary.LittleEndian
	switch {
	case len(p) < stateHeader+stateChecksum:
		return s, fmt.Errorf("%d bytes, too few", len(p))
	case len(p) > maxState:
		return s, fmt.Errorf("%d bytes, more than %d", len(p), maxState)
	case string(p[:8]) != stateMagic:
		return s, errors.New("not one of this device")
	case le.Uint32(p[8:]) != stateVersion:
		return s, fmt.Errorf("version %d, want %d", le.Uint32(p[8:]), stateVersion)
	case uint64(le.Uint32(p[12:])) != uint64(len(p)):
		return s, fmt.Errorf("%d bytes of %d", len(p), le.Uint32(p[12:]))
	}
	body, sum := p[:len(p)-stateChecksum], le.Uint32(p[len(p)-stateChecksum:])
	if crc32.Checksum(body, castagnoli) != sum {
		return s, errors.New("checksum is wrong")
	}
	s.cid, s.features = le.Uint64(p[16:]), le.Uint64(p[24:])
	if !ValidGuestCID(s.cid) {
		return s, fmt.Errorf("guest CID %d is reserved", s.cid)
	}
	n, conns := le.Uint32(p[32:]), body[stateHeader:]
	if uint64(n)*stateConn != uint64(len(conns)) {
		return s, fmt.Errorf("%d connections in %d bytes", n, len(conns))
	}
	s.conns = make(map[key]csm.Type, n)
	for ; len(conns) > 0; conns = conns[stateConn:] {
		k := key{guest: le.Uint32(conns), host: le.Uint32(conns[4:])}
		if _, twice := s.conns[k]; twice {
			return s, fmt.Errorf("connection %d to %d is there twice", k.guest, k.host)
		}
		s.conns[k] = csm.Type(le.Uint16(conns[8:]))
	}
	return s, nil
}
