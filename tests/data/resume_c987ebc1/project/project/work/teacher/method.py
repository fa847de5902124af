_base_ = ['../../teacher.py']
