package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// parseVMFlag takes the value of a --vm apart: key=value, separated by commas. A
// doubled comma is one in a value, as in QEMU's options.
func parseVMFlag(text string) (section, error) {
	s := section{place: fmt.Sprintf("--%s %q", vmFlag, text)}
	for _, entry := range splitEntries(text) {
		key, val, given := strings.Cut(entry, "=")
		if key == "" {
			return s, errors.New("an entry without a key; give KEY=VALUE, and write a comma in a value as two")
		}
		o := optionNamed(key)
		switch {
		case o == nil:
			return s, fmt.Errorf("%s: no option of a VM has this name", key)
		case o.vm == nil:
			return s, fmt.Errorf("%s: an option of the program, not of a VM; give it as --%s", key, o.name)
		case !given && o.arg != "":
			return s, fmt.Errorf("%s: its value is missing; give %s=%s", key, key, o.arg)
		case !given:
			val = "true"
		}
		if err := s.note(o, value{s.at(o.name), val}); err != nil {
			return s, fmt.Errorf("%s %q: %w", key, val, err)
		}
	}
	return s, nil
}

// splitEntries splits text at its single commas and makes one of doubled ones.
func splitEntries(text string) []string {
	var entries []string
	var entry strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != ',':
			entry.WriteByte(text[i])
		case i+1 < len(text) && text[i+1] == ',':
			entry.WriteByte(',')
			i++
		default:
			entries = append(entries, entry.String())
			entry.Reset()
		}
	}
	return append(entries, entry.String())
}

// VMOptions takes the value of a --vm apart for another process: the texts of options
// by their names. Paths that began in this process's working directory are absolute.
func VMOptions(text string) (map[string]string, error) {
	s, err := parseVMFlag(text)
	if err != nil {
		return nil, err
	}
	options := make(map[string]string)
	for name, values := range s.values {
		options[name] = values[0].text
		if !optionNamed(name).isPath() || values[0].text == "" {
			continue
		}
		if options[name], err = filepath.Abs(values[0].text); err != nil {
			return nil, fmt.Errorf("%s %q: %w", name, values[0].text, err)
		}
	}
	return options, nil
}

// isPath reports whether the value is a path and may be a relative one.
func (o *option) isPath() bool { return o.arg == "PATH" || o.arg == "FILE" }
