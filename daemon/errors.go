package daemon

import (
	"strings"

	"github.com/hashicorp/go-multierror"
)

// gather returns those of errs that are not nil as one error, nil if none is.
// Its text is one line, for the log.
func gather(errs ...error) error {
	all := multierror.Append(nil, errs...)
	switch all.Len() {
	case 0:
		return nil
	case 1:
		return all.Errors[0]
	}
	all.ErrorFormat = func(errs []error) string {
		texts := make([]string, len(errs))
		for i, err := range errs {
			texts[i] = err.Error()
		}
		return strings.Join(texts, "; ")
	}
	return all
}
