"""Says what a run optimises: each module is one objective. It knows no Trainer."""
