"""What the commands accept, known before torch is imported: options, help, configuration files."""
