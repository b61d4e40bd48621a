package main

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

// cidSource is where a VM's CID comes from.
type cidSource struct {
	cid  uint64 // as last read
	file string // that holds it; empty where the command line has the number
}

// parseCIDSource reads a CID, or one out of the file that s names.
func parseCIDSource(s string) (cidSource, error) {
	if !filepath.IsAbs(s) {
		cid, err := parseGuestCID(s)
		return cidSource{cid: cid}, err
	}
	source := cidSource{file: s}
	return source, source.reload()
}

// reload reads the file again. On error the source is as before.
func (s *cidSource) reload() error {
	text, err := readShort(s.file)
	if err != nil {
		return fmt.Errorf("%w; give a CID or the path of a file that holds one", err)
	}
	cid, err := parseGuestCID(text)
	if err != nil {
		return fmt.Errorf("the file holds %q: %w", text, err)
	}
	s.cid = cid
	return nil
}

// readShort returns the start of a regular file, more than any number has digits,
// without the blanks around it. Others could make the program wait.
func readShort(path string) (string, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64))
	return strings.TrimSpace(string(text)), err
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
