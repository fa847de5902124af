_base_ = ['../../../../control.py']
