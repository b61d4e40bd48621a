package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
)

// CIDSource is where a VM's CID comes from.
type CIDSource struct {
	CID  uint64 // as last read
	File string // that holds it; empty where the configuration has the number
}

// parseCIDSource reads a CID, or notes the file that holds one.
func parseCIDSource(s string) (CIDSource, error) {
	if filepath.IsAbs(s) {
		return CIDSource{File: s}, nil
	}
	cid, err := parseGuestCID(s)
	return CIDSource{CID: cid}, err
}

// read reads the file, if there is one.
func (s *CIDSource) read() error {
	if s.File == "" {
		return nil
	}
	text, err := readShort(s.File)
	if err != nil {
		return fmt.Errorf("%w; give a CID or the path of a file that holds one", err)
	}
	if s.CID, err = parseGuestCID(text); err != nil {
		return fmt.Errorf("the file holds %q: %w", text, err)
	}
	return nil
}

// readShort returns the start of a regular file, more than any number has digits,
// without the blanks around it. Others could make the program wait.
func readShort(path string) (string, error) {
	text, err := readRegular(path, 64)
	return strings.TrimSpace(string(text)), err
}

// readRegular returns at most limit bytes of a regular file.
func readRegular(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// parseGuestCID reads a number that a guest can have for its CID.
func parseGuestCID(s string) (uint64, error) {
	cid, err := strconv.ParseUint(s, 10, 32)
	switch {
	case err != nil:
		return 0, errors.New("not a 32-bit number; give one from 3 to 4294967294")
	case !muxer.ValidGuestCID(cid):
		return 0, errors.New("reserved; give a number from 3 to 4294967294")
	}
	return cid, nil
}
