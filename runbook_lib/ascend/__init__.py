"""Pure knowledge of the field: what Ascend tools print, what MindIE wants, what breaks and why."""
